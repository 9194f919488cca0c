-- Makes format 4 of format 3.

ALTER TABLE repository_manifest ADD COLUMN pulled INTEGER NOT NULL DEFAULT 0;
-- With the host, or SQLite prefers the index of (kind, host, name) and looks through every name of a kind.
DROP INDEX repository_name;
CREATE INDEX repository_name ON repository (kind, name, host);
