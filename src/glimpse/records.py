"""What results are written as: pydantic models, unknown keys forbidden."""

from __future__ import annotations

import json

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """Base of all records: immutable, closed, and read from the attributes of what they record."""

    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)

    @classmethod
    def schema_text(cls) -> str:
        """JSON schema, as `docs/*.schema.json` hold it."""
        return json.dumps(cls.model_json_schema(), indent=2, ensure_ascii=False) + "\n"
