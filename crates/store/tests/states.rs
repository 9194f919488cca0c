//! The states of one blob, all of them: whatever is done next in whichever of them, nothing is lost that somebody counts
//! on, and nothing is left that nobody names.
//!
//! Breadth first over what can be observed of the real store. Each state is reached again by the shortest way that was
//! found to it, in a new folder, and each operation is tried there.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod given;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use artifact::{Digest, Repository, Silent};
use given::{cause, database_of, entry, manifest, put};
use store::{Change, NewBlob, Store, Sweep};

const HOUR: i64 = 3600;
const GRACE: i64 = 24 * HOUR;
const BYTES: &[u8] = b"the one blob";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// A writer has brought the bytes, and not named them yet.
    Stage,
    /// The first that was staged is named and granted: a push is acknowledged.
    Commit,
    /// The same, by a load: named, and granted to nobody.
    CommitUngranted,
    /// Somebody who is about to push asks for it.
    Head,
    /// A manifest that names it, under a tag.
    Name,
    /// The tag goes.
    Unname,
    /// The grace period passes.
    Pass,
    Gc,
    /// What is condemned keeps its bytes: the process ends before they go.
    GcCut,
    /// `kill -9`, and the next process.
    Kill,
}

const STEPS: [Step; 10] = [
    Step::Stage,
    Step::Commit,
    Step::CommitUngranted,
    Step::Head,
    Step::Name,
    Step::Unname,
    Step::Pass,
    Step::Gc,
    Step::GcCut,
    Step::Kill,
];

/// How long ago something was renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Age {
    Fresh,
    Aged,
}

/// What can be told apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    row: Option<Age>,
    grant: Option<Age>,
    document: Option<Age>,
    document_grant: Option<Age>,
    entry: bool,
    condemned: usize,
    staged: usize,
    /// Files that neither a row nor a condemnation nor a writer knows: what killed writers left.
    orphans: usize,
}

/// A store in the middle of a way.
struct World {
    folder: tempfile::TempDir,
    /// None: between two processes.
    store: Option<Store>,
    repository: Repository,
    document: bytes::Bytes,
    staged: VecDeque<NewBlob>,
    ahead: i64,
    /// Keys that a row had once and has no more.
    retired: BTreeSet<String>,
    current: Option<String>,
}

impl World {
    async fn new() -> Self {
        // Thousands of stores are made: in memory, where there is room for such.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        Self {
            folder,
            store: Some(store),
            repository: Repository::image("", "app"),
            document: manifest(&[BYTES]),
            staged: VecDeque::new(),
            ahead: 0,
            retired: BTreeSet::new(),
            current: None,
        }
    }

    async fn reach(way: &[Step]) -> Self {
        let mut world = Self::new().await;
        for step in way {
            world.take(*step).await;
        }
        world
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn blobs(&self) -> Vec<PathBuf> {
        files_below(&self.folder.path().join("blobs"))
    }

    async fn sweep(&self, before: i64) {
        let sweep = Sweep { before, keep: 0, rules: &[], by: "", pinned: &|_| false, report: &drop, dry_run: false };
        self.store().gc(&sweep).await.unwrap();
    }

    /// Takes a step where it can be taken, as a server would.
    async fn take(&mut self, step: Step) {
        let digest = Digest::of(BYTES);
        let shown = self.store().granted_blob(&self.repository, &digest).await.unwrap().is_some();
        let mut change = Change::new();
        match step {
            Step::Stage => self.staged.push_back(put(self.store(), BYTES)),
            Step::Commit | Step::CommitUngranted => {
                let Some(blob) = self.staged.pop_front() else { return };
                change.blob((step == Step::Commit).then_some(&self.repository), blob);
                self.store().apply(change).await.unwrap();
            }
            Step::Head if shown => {
                change.renew_grant(&self.repository, &digest);
                self.store().apply(change).await.unwrap();
            }
            Step::Name if shown => {
                let named = Digest::of(&self.document);
                change.manifest(&self.repository, &named, self.document.clone(), "", HashSet::new());
                change.entry(&self.repository, entry("1", named, self.store().now()));
                self.store().apply(change).await.unwrap();
            }
            Step::Unname => {
                let mut change = Change::because(cause("rm"));
                change.remove(&self.repository, "1");
                self.store().apply(change).await.unwrap();
            }
            Step::Pass => {
                self.store().pass(GRACE + HOUR);
                self.ahead += GRACE + HOUR;
            }
            Step::Gc => self.sweep(self.store().now() - GRACE).await,
            Step::GcCut => {
                // Where a folder stands in their place, bytes cannot be removed; afterwards they are there again.
                let held: Vec<(PathBuf, PathBuf)> =
                    self.blobs().into_iter().map(|path| (self.folder.path().join("held"), path)).collect();
                for (at, (held, path)) in held.iter().enumerate() {
                    std::fs::rename(path, held.with_extension(at.to_string())).unwrap();
                    std::fs::create_dir(path).unwrap();
                }
                self.sweep(self.store().now() - GRACE).await;
                for (at, (held, path)) in held.iter().enumerate() {
                    std::fs::remove_dir(path).unwrap();
                    std::fs::rename(held.with_extension(at.to_string()), path).unwrap();
                }
            }
            Step::Kill => {
                // Nobody is left to take away what was staged.
                self.staged.drain(..).for_each(std::mem::forget);
                self.store = None;
                let store = Store::open(self.folder.path()).await.unwrap();
                store.pass(self.ahead);
                self.store = Some(store);
            }
            Step::Head | Step::Name => {}
        }
        let now = self.store().blob(&digest).await.unwrap().map(|blob| blob.key);
        assert!(now.as_ref().is_none_or(|key| !self.retired.contains(key)), "{step:?}: a key is used twice");
        if self.current != now {
            self.retired.extend(std::mem::replace(&mut self.current, now));
        }
    }

    /// Looks at everything, and finds the invariants kept.
    async fn observe(&self, way: &[Step]) -> State {
        let (digest, named) = (Digest::of(BYTES), Digest::of(&self.document));
        let database = database_of(self.folder.path()).await;
        let before = self.store().now() - GRACE;
        let age = |renewed: i64| if renewed < before { Age::Aged } else { Age::Fresh };
        let one = async |question: &'static str, digest: &Digest| -> Option<Age> {
            let renewed: Option<i64> =
                sqlx::query_scalar(question).bind(digest.as_bytes()).fetch_optional(&database).await.unwrap();
            renewed.map(age)
        };
        let keys: Vec<String> = sqlx::query_scalar("SELECT key FROM blob").fetch_all(&database).await.unwrap();
        let condemned: Vec<String> =
            sqlx::query_scalar("SELECT key FROM condemned").fetch_all(&database).await.unwrap();
        let files = self.blobs();
        let state = State {
            row: one("SELECT renewed FROM blob WHERE digest = $1", &digest).await,
            grant: one("SELECT renewed FROM repository_blob WHERE digest = $1", &digest).await,
            document: one("SELECT renewed FROM manifest WHERE digest = $1", &named).await,
            document_grant: one("SELECT renewed FROM repository_manifest WHERE digest = $1", &named).await,
            entry: self.store().entry(&self.repository, "1").await.unwrap().is_some(),
            condemned: condemned.len(),
            staged: self.staged.len(),
            orphans: (files.len()).saturating_sub(keys.len() + condemned.len() + self.staged.len()),
        };
        database.close().await;

        assert!(keys.len() <= 1, "{way:?}: a blob has {} rows", keys.len());
        for key in &keys {
            let bytes = std::fs::read(self.folder.path().join("blobs").join(key));
            assert!(bytes.is_ok_and(|bytes| bytes == BYTES), "{way:?}: a row has not its bytes");
            assert!(!condemned.contains(key), "{way:?}: what is condemned is offered");
        }
        assert!(state.grant.is_none() || state.row.is_some(), "{way:?}: what is shown has no row");
        if state.entry {
            assert!(state.grant.is_some() && state.document_grant.is_some(), "{way:?}: what is led to is not shown");
            let stored = self.store().granted_manifest(&self.repository, &named).await.unwrap().unwrap();
            assert!(stored.complete && stored.bytes == self.document, "{way:?}: what is named has a hole");
        }
        state
    }

    /// At rest there are no bytes without a row but what killed writers left; those, `tidy` takes.
    async fn comes_to_rest(mut self, way: &[Step]) -> (tempfile::TempDir, usize) {
        let (orphans, led) = {
            let state = self.observe(way).await;
            (state.orphans, state.entry)
        };
        self.staged.clear();
        self.sweep(i64::MAX).await;
        let state = self.observe(way).await;
        assert_eq!((state.condemned, state.orphans), (0, orphans), "{way:?}: at rest");
        assert_eq!(state.row.is_some(), led, "{way:?}: at rest there is what is led to, and nothing else");
        self.store().close().await;
        (self.folder, orphans)
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// What must be true of a step, beside what is true of each state.
fn is_right(before: &State, step: Step, after: &State, way: &[Step]) {
    let kept = |what: &str, is: bool| assert!(is, "{way:?}: {what}: {before:?} → {after:?}");
    kept("only a kill leaves bytes that nobody knows", step == Step::Kill || after.orphans <= before.orphans);
    match step {
        Step::Gc | Step::GcCut => {
            kept("what is fresh stays", before.grant != Some(Age::Fresh) || after.grant.is_some());
            kept("what was just brought stays", before.row != Some(Age::Fresh) || after.row.is_some());
            kept("what is named stays", before.entry == after.entry);
            kept("what is staged stays", before.staged == after.staged);
            if step == Step::Gc {
                kept("nothing stays condemned", after.condemned == 0);
            }
        }
        Step::CommitUngranted if before.staged > 0 => {
            kept("what was brought is fresh", after.row == Some(Age::Fresh));
        }
        Step::Commit if before.staged > 0 => kept("what was acknowledged is shown", after.grant == Some(Age::Fresh)),
        Step::Head if before.grant.is_some() => kept("what was asked for is fresh", after.grant == Some(Age::Fresh)),
        Step::Name if before.grant.is_some() => kept("what was named is named", after.entry),
        Step::Kill => {
            kept(
                "a kill takes back nothing",
                (before.row, before.grant, before.entry) == (after.row, after.grant, after.entry),
            );
            kept("a kill leaves what was staged", after.orphans == before.orphans + before.staged);
        }
        _ => {}
    }
}

#[tokio::test]
async fn every_state_of_a_blob() {
    let mut ways: BTreeMap<State, Vec<Step>> = BTreeMap::new();
    let mut open: VecDeque<State> = VecDeque::new();
    let first = World::new().await.observe(&[]).await;
    ways.insert(first.clone(), Vec::new());
    open.push_back(first);
    let mut steps = 0;
    while let Some(state) = open.pop_front() {
        let way = ways[&state].clone();
        let mut reached = None;
        for step in STEPS {
            // Two writers of the same bytes at a time are enough, whatever has become of them.
            if step == Step::Stage && state.staged + state.orphans + state.condemned >= 2 {
                continue;
            }
            let mut world: World = match reached.take() {
                Some(world) => world,
                None => World::reach(&way).await,
            };
            assert_eq!(world.observe(&way).await, state, "{way:?}: the same way leads elsewhere");
            world.take(step).await;
            let mut longer = way.clone();
            longer.push(step);
            let after = world.observe(&longer).await;
            is_right(&state, step, &after, &longer);
            steps += 1;
            // What led back to where it was leaves the store for the next.
            if after == state {
                reached = Some(world);
            }
            if !ways.contains_key(&after) {
                ways.insert(after.clone(), longer);
                open.push_back(after);
            }
        }
    }
    let mut at_rest = Vec::new();
    for way in ways.values() {
        at_rest.push(World::reach(way).await.comes_to_rest(way).await);
    }
    // What is younger than the opening of a store may still be named by a writer, and is no orphan.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    for (folder, orphans) in at_rest.iter().filter(|(_, orphans)| *orphans > 0) {
        let store = Store::open(folder.path()).await.unwrap();
        let found = store.fsck(true, Arc::new(Silent)).await.unwrap();
        assert_eq!((found.removed, found.findings.len()), (*orphans as u64, 0));
        let rows = usize::try_from(store.usage().await.unwrap().blobs).unwrap();
        assert_eq!(files_below(&folder.path().join("blobs")).len(), rows, "bytes without a row");
        store.close().await;
    }
    println!("{} states, {steps} steps from them", ways.len());
    assert!(ways.len() > 50, "only {} states were reached", ways.len());
}
