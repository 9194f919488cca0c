-- Makes format 4 of format 3.

ALTER TABLE repository_manifest ADD COLUMN pulled INTEGER NOT NULL DEFAULT 0;
