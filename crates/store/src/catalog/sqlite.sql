-- The catalog, as SQLite has it. Names sort bytewise (SQLite's BINARY collation); digests are their raw bytes.

CREATE TABLE repository (
    id     INTEGER PRIMARY KEY,
    kind   TEXT NOT NULL,
    host   TEXT NOT NULL,            -- empty: local
    name   TEXT NOT NULL,
    UNIQUE (kind, host, name)
) STRICT;
CREATE INDEX repository_name ON repository (kind, name, host);

-- A name (tag, path or digest) in a repository, and what it names.
CREATE TABLE entry (
    repository INTEGER NOT NULL REFERENCES repository,
    name       TEXT NOT NULL,
    digest     BLOB NOT NULL,
    size       INTEGER NOT NULL,
    seen       INTEGER NOT NULL,     -- when its upstream was asked, seconds since 1970
    origin     TEXT NOT NULL,
    trust      TEXT NOT NULL,
    PRIMARY KEY (repository, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX entry_digest ON entry (digest);

CREATE TABLE manifest (
    digest        BLOB PRIMARY KEY,
    bytes         BLOB NOT NULL,     -- verbatim
    media_type    TEXT NOT NULL,
    artifact_type TEXT,
    subject       BLOB,
    annotations   TEXT,
    complete      INTEGER NOT NULL,  -- every carried link is present, all the way down
    renewed       INTEGER NOT NULL DEFAULT 0 -- when it was last brought or asked for, seconds since 1970
) STRICT;
CREATE INDEX manifest_subject ON manifest (subject) WHERE subject IS NOT NULL;

CREATE TABLE link (
    parent      BLOB NOT NULL,
    child       BLOB NOT NULL,
    is_manifest INTEGER NOT NULL,
    carried     INTEGER NOT NULL,    -- 0: omitted on purpose
    size        INTEGER NOT NULL,
    PRIMARY KEY (parent, child)
) STRICT, WITHOUT ROWID;
CREATE INDEX link_child ON link (child);

CREATE TABLE blob (
    digest BLOB PRIMARY KEY,
    size   INTEGER NOT NULL,
    key    TEXT NOT NULL UNIQUE,     -- where its bytes are, below blobs/
    renewed INTEGER NOT NULL DEFAULT 0 -- as in manifest
) STRICT;

-- Keys whose bytes nothing names any more: they go, and then the row does.
CREATE TABLE condemned (
    key TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;

-- What a repository may show. Nothing else grants: a link does not.
CREATE TABLE repository_blob (
    repository INTEGER NOT NULL REFERENCES repository,
    digest     BLOB NOT NULL,
    renewed    INTEGER NOT NULL DEFAULT 0, -- when it was granted, asked for by whoever pushes, or an entry let go of it
    PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX repository_blob_digest ON repository_blob (digest);
CREATE TABLE repository_manifest (
    repository INTEGER NOT NULL REFERENCES repository,
    digest     BLOB NOT NULL,
    renewed    INTEGER NOT NULL DEFAULT 0, -- as in repository_blob
    pulled     INTEGER NOT NULL DEFAULT 0, -- when somebody last pulled it from here; 0: nobody that is known of
    PRIMARY KEY (repository, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX repository_manifest_digest ON repository_manifest (digest);

-- The site's own documents: CA, keys, token hashes, pending bundles.
CREATE TABLE document (
    name  TEXT PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;

-- Numbered states of the store, and what each entry was before it changed.
CREATE TABLE generation (
    number  INTEGER PRIMARY KEY,
    at      INTEGER NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    by      TEXT NOT NULL
) STRICT;
CREATE TABLE change (
    id         INTEGER PRIMARY KEY,
    generation INTEGER NOT NULL,
    repository INTEGER NOT NULL REFERENCES repository,
    name       TEXT NOT NULL,
    old        TEXT,                 -- the entry before, as JSON; NULL: there was none
    new        TEXT                  -- the entry after; NULL: it was removed
) STRICT;
CREATE INDEX change_generation ON change (generation);
CREATE INDEX change_old ON change (repository, json_extract(old, '$.digest')) WHERE old IS NOT NULL;

-- Since format 2: which Naru made each format of this catalog, the last one being what it has.
CREATE TABLE format (
    number INTEGER PRIMARY KEY,
    naru   TEXT NOT NULL
) STRICT;

-- Repositories as `_catalog` shows them, in its order.
CREATE INDEX repository_shown ON repository (kind, CASE host WHEN '' THEN name ELSE host || '/' || name END);

-- Who may do what.
CREATE TABLE account (
    kind        TEXT NOT NULL,       -- token or user
    name        TEXT NOT NULL,
    secret      TEXT NOT NULL,       -- a token's SHA-256, or the hash of a password; empty: there is neither
    certificate BLOB,                -- the SHA-256 of a client's certificate
    scopes      TEXT NOT NULL,       -- as `--scope` has them, with blanks between
    expires     INTEGER,             -- seconds since 1970; NULL: never
    made        INTEGER NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;
