//! Accounts: who may do what, as the catalog keeps it. What a secret or a scope means is `serve`'s to know.

use artifact::Digest;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Sqlite, query::Query};

use crate::{Result, Store, catalog};

/// An account.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// Whether a token or a person. A name is one's of each.
    pub kind: AccountKind,
    /// Its name.
    pub name: String,
    /// What its secret is known by: a hash. Empty: it has none.
    pub secret: String,
    /// The SHA-256 of its client certificate.
    pub certificate: Option<Digest>,
    /// What it may do.
    pub scopes: String,
    /// When it ends, in seconds since 1970.
    pub expires: Option<i64>,
    /// When it was made, in seconds since 1970.
    pub made: i64,
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Hashes stay out of logs too.
        f.debug_struct("Account").field("kind", &self.kind).field("name", &self.name).finish_non_exhaustive()
    }
}

/// What an account is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccountKind {
    /// A machine's: a long secret that needs no slow hash.
    Token,
    /// A person's: a password or a certificate.
    User,
}

impl AccountKind {
    /// As it is written: `token`, `user`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::User => "user",
        }
    }
}

impl std::fmt::Display for AccountKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

type Row = (String, String, String, Option<Vec<u8>>, String, Option<i64>, i64);

impl Store {
    /// Every account, sorted by kind and name.
    pub async fn accounts(&self) -> Result<Vec<Account>> {
        let found: Vec<Row> = sqlx::query_as(
            "SELECT kind, name, secret, certificate, scopes, expires, made FROM account ORDER BY kind, name",
        )
        .fetch_all(self.db())
        .await
        .map_err(|error| self.failed(error))?;
        let accounts = found.into_iter().filter_map(|(kind, name, secret, certificate, scopes, expires, made)| {
            let kind = [AccountKind::Token, AccountKind::User].into_iter().find(|known| known.as_str() == kind)?;
            let certificate = certificate.and_then(|bytes| Digest::from_bytes(&bytes));
            Some(Account { kind, name, secret, certificate, scopes, expires, made })
        });
        Ok(accounts.collect())
    }

    /// Adds an account; `false`: there is one of that name, and it stays.
    pub async fn add_account(&self, account: &Account) -> Result<bool> {
        self.may_write()?;
        let added = bound(
            account,
            "INSERT INTO account (kind, name, secret, certificate, scopes, expires, made) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        );
        let added = added.execute(self.inner.catalog.writer()).await.map_err(|error| self.failed(error))?;
        Ok(added.rows_affected() > 0)
    }

    /// Puts accounts in the place of those of their names, all of them or none.
    pub async fn put_accounts(&self, accounts: &[Account]) -> Result<()> {
        self.may_write()?;
        let put = catalog::transaction(self.inner.catalog.writer(), async |db| {
            for account in accounts {
                let put = bound(
                    account,
                    "INSERT INTO account (kind, name, secret, certificate, scopes, expires, made) \
                     VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO UPDATE SET secret = excluded.secret, \
                     certificate = excluded.certificate, scopes = excluded.scopes, expires = excluded.expires",
                );
                put.execute(&mut *db).await?;
            }
            Ok(())
        });
        put.await.map_err(|error| self.failed(error))
    }

    /// Removes an account; `false`: there was none of that name.
    pub async fn remove_account(&self, kind: AccountKind, name: &str) -> Result<bool> {
        self.may_write()?;
        let removed = sqlx::query("DELETE FROM account WHERE kind = $1 AND name = $2").bind(kind.as_str()).bind(name);
        let removed = removed.execute(self.inner.catalog.writer()).await.map_err(|error| self.failed(error))?;
        Ok(removed.rows_affected() > 0)
    }
}

fn bound<'a>(account: &'a Account, statement: &'static str) -> Query<'a, Sqlite, SqliteArguments> {
    sqlx::query(statement)
        .bind(account.kind.as_str())
        .bind(&account.name)
        .bind(&account.secret)
        .bind(account.certificate.as_ref().map(Digest::as_bytes))
        .bind(&account.scopes)
        .bind(account.expires)
        .bind(account.made)
}
