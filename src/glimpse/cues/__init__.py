"""What is told from outside the network: key points of people and maps of body parts."""
