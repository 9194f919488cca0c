-- Makes format 3 of format 2. What is here when it is made counts as asked for just now.

ALTER TABLE manifest ADD COLUMN renewed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE blob ADD COLUMN renewed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repository_blob ADD COLUMN renewed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE repository_manifest ADD COLUMN renewed INTEGER NOT NULL DEFAULT 0;
UPDATE manifest SET renewed = unixepoch();
UPDATE blob SET renewed = unixepoch();
UPDATE repository_blob SET renewed = unixepoch();
UPDATE repository_manifest SET renewed = unixepoch();
CREATE INDEX change_old ON change (repository, json_extract(old, '$.digest')) WHERE old IS NOT NULL;
CREATE TABLE condemned (key TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE INDEX repository_shown ON repository (kind, CASE host WHEN '' THEN name ELSE host || '/' || name END);
CREATE TABLE account (
    kind        TEXT NOT NULL,
    name        TEXT NOT NULL,
    secret      TEXT NOT NULL,
    certificate BLOB,
    scopes      TEXT NOT NULL,
    expires     INTEGER,
    made        INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
