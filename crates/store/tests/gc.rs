//! Collection: what nothing leads to goes, and nothing else does, whatever else happens meanwhile.

#![expect(clippy::unwrap_used, reason = "a test may")]

mod given;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex};

use artifact::{Digest, Repository, Silent, media_type};
use bytes::Bytes;
use given::{cause, entry, files, for_each_store, index, manifest, open, put};
use proptest::prelude::*;
use store::{Change, Error, Gone, Rule, Store, Sweep, Swept, Why};

const HOUR: i64 = 3600;
const GRACE: i64 = 24 * HOUR;

async fn collect(store: &Store, keep: u32, dry_run: bool) -> (Swept, Vec<Gone>) {
    collect_by(store, &[], keep, dry_run).await
}

async fn collect_by(store: &Store, rules: &[Rule], keep: u32, dry_run: bool) -> (Swept, Vec<Gone>) {
    let gone = Mutex::new(Vec::new());
    let report = |one: Gone| gone.lock().unwrap().push(one);
    let sweep =
        Sweep { before: store.now() - GRACE, keep, rules, by: "", pinned: &|_| false, report: &report, dry_run };
    let swept = store.gc(&sweep).await.unwrap();
    (swept, gone.into_inner().unwrap())
}

/// A manifest with one layer, under a tag.
async fn push(store: &Store, repository: &Repository, tag: &str, layer: &[u8]) -> Digest {
    let document = manifest(&[layer]);
    let digest = Digest::of(&document);
    let mut change = Change::new();
    change.blob(Some(repository), put(store, layer));
    change.manifest(repository, &digest, document, "", HashSet::new());
    change.entry(repository, entry(tag, digest, store.now()));
    store.apply(change).await.unwrap();
    digest
}

async fn is_clean(store: &Store) {
    let fsck = store.fsck(false, Arc::new(Silent)).await.unwrap();
    assert_eq!(fsck.findings, [], "fsck");
}

#[tokio::test]
async fn what_nothing_leads_to_goes_after_its_grace() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let (one, other) = (Repository::image("", "one"), Repository::image("a.io", "other"));
        let old = push(&store, &one, "1", b"shared").await;
        push(&store, &other, "1", b"shared").await;
        push(&store, &one, "2", b"own").await;
        let new = push(&store, &one, "1", b"new").await;
        assert_ne!(old, new);
        // The tag let go of it now; whoever was told that digest a moment ago may still come for it.
        store.pass(GRACE - HOUR);
        assert_eq!(collect(&store, 10, false).await.0, Swept::default());
        store.pass(2 * HOUR);
        let mut change = Change::because(cause("rm"));
        change.remove(&one, "2");
        store.apply(change).await.unwrap();
        let (would, listed) = collect(&store, 10, true).await;
        let (swept, gone) = collect(&store, 10, false).await;
        assert_eq!((would, &listed), (swept, &gone), "a rehearsal is what is played");
        // Its manifest, and this repository's layer; the layer itself is another's too.
        assert_eq!(swept, Swept { tags: 0, grants: 2, manifests: 0, blobs: 0, bytes: 0 });
        assert!(store.granted_blob(&one, &Digest::of(b"shared")).await.unwrap().is_none());
        assert!(store.granted_blob(&other, &Digest::of(b"shared")).await.unwrap().is_some());
        store.pass(GRACE + HOUR);
        let (swept, gone) = collect(&store, 10, false).await;
        assert_eq!(swept, Swept { tags: 0, grants: 2, manifests: 1, blobs: 1, bytes: 3 });
        assert!(gone.contains(&Gone::Blob { digest: Digest::of(b"own"), size: 3 }), "{gone:?}");
        assert_eq!(files(&folder.path().join("blobs")), 2);
        assert_eq!(collect(&store, 10, false).await.0, Swept::default(), "there is nothing left to do");
        is_clean(&store).await;
    })
    .await;
}

fn rule(repositories: &str) -> Rule {
    Rule {
        repositories: vec![repositories.parse().unwrap()],
        older_than: None,
        keep_last: None,
        keep_tags: Vec::new(),
        pulled_within: None,
    }
}

fn tags(gone: &[Gone]) -> Vec<String> {
    let tag = |gone: &Gone| match gone {
        Gone::Tag { repository, name, .. } => Some(format!("{repository}:{name}")),
        _ => None,
    };
    gone.iter().filter_map(tag).collect()
}

#[tokio::test]
async fn tags_end_by_the_first_rule_of_their_repository() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let (app, kept, other) =
            (Repository::image("", "team/app"), Repository::image("", "team/kept"), Repository::image("a.io", "app"));
        for number in 1..=4_u8 {
            for repository in [&app, &kept, &other] {
                push(&store, repository, &format!("v{number}"), &[number]).await;
            }
            store.pass(HOUR);
        }
        // Its oldest is pulled again and again, and its second is what the newest is too.
        let first = store.entry(&app, "v1").await.unwrap().unwrap().digest;
        assert!(store.note_pull(&app, &first));
        let rules = [
            Rule { keep_last: Some(100), ..rule("team/kept") },
            Rule {
                keep_last: Some(1),
                pulled_within: Some(HOUR),
                keep_tags: vec!["v3".parse().unwrap()],
                ..rule("team/*")
            },
        ];
        let (would, listed) = collect_by(&store, &rules, 10, true).await;
        assert_eq!(tags(&listed), ["team/app:v2"]);
        assert!(store.entry(&app, "v2").await.unwrap().is_some(), "a rehearsal ends nothing");
        let (swept, gone) = collect_by(&store, &rules, 10, false).await;
        assert_eq!((swept, &gone), (would, &listed));
        assert!(matches!(gone[0], Gone::Tag { why: Why::Rule { pulled: None, .. }, .. }), "{gone:?}");
        assert_eq!(store.history(1).await.unwrap()[0].cause.action, "gc");
        for tag in ["v1", "v3", "v4"] {
            assert!(store.entry(&app, tag).await.unwrap().is_some(), "{tag}");
        }
        // Whoever was just told that digest may still come for it; later it goes.
        assert_eq!(swept, Swept { tags: 1, ..Swept::default() });
        store.pass(GRACE + HOUR);
        let (swept, gone) = collect_by(&store, &rules, 10, false).await;
        assert_eq!(tags(&gone), ["team/app:v1"], "nobody has pulled it lately");
        assert_eq!((swept.tags, swept.grants, swept.blobs), (1, 2, 0), "others have the layer too");
        is_clean(&store).await;
    })
    .await;
}

#[tokio::test]
async fn a_signature_s_tag_lives_with_what_it_signs() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::image("", "app");
        let signed = push(&store, &repository, "v1", b"layer").await;
        let tag = format!("sha256-{}.sig", signed.hex());
        push(&store, &repository, &tag, b"signature").await;
        store.pass(HOUR);
        push(&store, &repository, "v2", b"other").await;
        let rules = [Rule { keep_last: Some(2), ..rule("**") }];
        assert_eq!(tags(&collect_by(&store, &rules, 10, false).await.1), Vec::<String>::new(), "it is none of the two");
        let rules = [Rule { keep_last: Some(1), ..rule("**") }];
        assert_eq!(tags(&collect_by(&store, &rules, 10, false).await.1), ["app:v1"]);
        store.pass(GRACE + HOUR);
        let (_, gone) = collect_by(&store, &rules, 10, false).await;
        assert_eq!(tags(&gone), Vec::<String>::new(), "what it signs is still shown");
        let (_, gone) = collect_by(&store, &rules, 10, false).await;
        assert_eq!(tags(&gone), [format!("app:{tag}")]);
        assert!(matches!(gone[0], Gone::Tag { why: Why::Without(subject), .. } if subject == signed), "{gone:?}");
        store.pass(GRACE + HOUR);
        collect_by(&store, &rules, 10, false).await;
        assert_eq!(files(&folder.path().join("blobs")), 1);
        is_clean(&store).await;
    })
    .await;
}

#[tokio::test]
async fn what_is_asked_for_or_brought_again_stays() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::image("", "one");
        let mut change = Change::new();
        for bytes in [&b"head"[..], b"mount", b"again", b"wanted", b"left"] {
            change.blob(Some(&repository), put(&store, bytes));
        }
        store.apply(change).await.unwrap();
        store.pass(2 * GRACE);
        store.renew_grant(&repository, &Digest::of(b"head")).await.unwrap();
        let mut change = Change::new();
        change.grant_blob(&Repository::image("", "two"), &Digest::of(b"mount"));
        change.blob(Some(&repository), put(&store, b"again"));
        store.apply(change).await.unwrap();
        store.renew([Digest::of(b"wanted")]).await.unwrap();
        collect(&store, 10, false).await;
        for stays in [&b"head"[..], b"mount", b"again", b"wanted"] {
            assert!(store.blob(&Digest::of(stays)).await.unwrap().is_some(), "{}", String::from_utf8_lossy(stays));
        }
        assert!(store.blob(&Digest::of(b"left")).await.unwrap().is_none());
        is_clean(&store).await;
    })
    .await;
}

#[tokio::test]
async fn a_referrer_lives_with_its_subject() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::image("a.io", "app");
        let subject = push(&store, &repository, "1", b"layer").await;
        let referrer = referrer(&subject);
        let mut change = Change::new();
        change.manifest(&repository, &Digest::of(&referrer), referrer.clone(), "", HashSet::new());
        store.apply(change).await.unwrap();
        store.pass(2 * GRACE);
        assert_eq!(collect(&store, 0, false).await.0, Swept::default());
        let mut change = Change::because(cause("rm"));
        change.remove(&repository, "1");
        store.apply(change).await.unwrap();
        store.pass(2 * GRACE);
        assert_eq!(collect(&store, 0, false).await.0, Swept { tags: 0, grants: 3, manifests: 2, blobs: 1, bytes: 5 });
        is_clean(&store).await;
    })
    .await;
}

#[tokio::test]
async fn an_index_keeps_its_children_and_a_sparse_one_nobody_elses() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let (whole, sparse) = (Repository::image("", "whole"), Repository::image("", "sparse"));
        let (one, two) = (manifest(&[b"one"]), manifest(&[b"two"]));
        let both = index(&[&one, &two]);
        let mut change = Change::new();
        change.blob(Some(&whole), put(&store, b"one")).blob(Some(&whole), put(&store, b"two"));
        change.grant_blob(&sparse, &Digest::of(b"one"));
        for document in [&one, &two, &both] {
            change.manifest(&whole, &Digest::of(document), document.clone(), "", HashSet::new());
        }
        change.manifest(&sparse, &Digest::of(&one), one.clone(), "", HashSet::new());
        change.manifest(&sparse, &Digest::of(&both), both.clone(), "", HashSet::from([Digest::of(&two)]));
        change.entry(&whole, entry("1", Digest::of(&both), 1));
        change.entry(&sparse, entry("1", Digest::of(&both), 1));
        store.apply(change).await.unwrap();
        store.pass(2 * GRACE);
        assert_eq!(collect(&store, 0, false).await.0, Swept::default());
        let mut change = Change::because(cause("rm"));
        change.remove(&whole, "1");
        store.apply(change).await.unwrap();
        store.pass(2 * GRACE);
        collect(&store, 0, false).await;
        // What points at it needs it, whoever may see it.
        assert!(store.granted_manifest(&sparse, &Digest::of(&one)).await.unwrap().is_some_and(|it| it.complete));
        assert!(store.granted_manifest(&whole, &Digest::of(&both)).await.unwrap().is_none());
        is_clean(&store).await;
    })
    .await;
}

#[tokio::test]
async fn what_can_be_restored_stays() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::image("a.io", "app");
        for number in 0..4_u8 {
            let document = manifest(&[&[number]]);
            let mut change = Change::because(cause("load"));
            change.blob(Some(&repository), put(&store, &[number]));
            change.manifest(&repository, &Digest::of(&document), document.clone(), "", HashSet::new());
            change.entry(&repository, entry("1", Digest::of(&document), i64::from(number) + 1));
            store.apply(change).await.unwrap();
        }
        store.pass(2 * GRACE);
        assert_eq!(collect(&store, 2, false).await.0.blobs, 1, "that of the first generation");
        store.restore(2, false, "test").await.unwrap();
        assert!(matches!(store.restore(1, false, "test").await.unwrap_err(), Error::Missing { .. }));
        is_clean(&store).await;
    })
    .await;
}

#[tokio::test]
async fn a_run_that_was_cut_is_finished_by_the_next() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let mut change = Change::new();
        change.blob(None, put(&store, b"bytes"));
        store.apply(change).await.unwrap();
        let blob = store.blob(&Digest::of(b"bytes")).await.unwrap().unwrap();
        store.pass(2 * GRACE);
        // Its bytes cannot be removed this time: a folder of that name stands in their place.
        let path = folder.path().join("blobs").join(&blob.key);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert_eq!(collect(&store, 0, false).await.0.blobs, 1);
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, b"bytes").unwrap();
        // Whoever brings it meanwhile brings it under another key.
        let mut change = Change::new();
        change.blob(None, put(&store, b"bytes"));
        store.apply(change).await.unwrap();
        assert_eq!(collect(&store, 0, false).await.0, Swept::default());
        assert!(!path.exists(), "what was condemned goes");
        assert!(store.blob(&Digest::of(b"bytes")).await.unwrap().is_some_and(|now| now.key != blob.key));
        is_clean(&store).await;
    })
    .await;
}

#[tokio::test]
async fn a_pin_holds() {
    for_each_store(async |folder| {
        let store = open(&folder).await;
        let repository = Repository::image("", "one");
        push(&store, &repository, "1", b"layer").await;
        let mut change = Change::because(cause("rm"));
        change.remove(&repository, "1");
        store.apply(change).await.unwrap();
        store.pass(2 * GRACE);
        let pinned = |digest: &Digest| *digest == Digest::of(b"layer");
        let sweep = Sweep {
            before: store.now() - GRACE,
            keep: 0,
            rules: &[],
            by: "",
            pinned: &pinned,
            report: &drop,
            dry_run: false,
        };
        assert_eq!(store.gc(&sweep).await.unwrap(), Swept { tags: 0, grants: 2, manifests: 1, blobs: 0, bytes: 0 });
        assert!(store.blob(&Digest::of(b"layer")).await.unwrap().is_some());
        is_clean(&store).await;
    })
    .await;
}

fn referrer(subject: &Digest) -> Bytes {
    let document = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::OCI_MANIFEST, "artifactType": "a/b",
        "layers": [], "subject": {"mediaType": media_type::OCI_MANIFEST, "digest": subject, "size": 1}});
    serde_json::to_vec(&document).unwrap().into()
}

// The interleavings, against a model: what is marked from the roots is what peeling leaves.

/// Its bytes, the layers and the manifests that it points at, and its subject.
type Document = (Bytes, Vec<usize>, Vec<usize>, Option<usize>);

/// What there is to push: layers by number, manifests of them, an index, and what refers to those.
struct World {
    layers: Vec<Vec<u8>>,
    /// Children before parents.
    documents: Vec<Document>,
    repositories: [Repository; 3],
}

impl World {
    fn new() -> Self {
        let layers: Vec<Vec<u8>> = (0..4_u8).map(|number| vec![number; 3]).collect();
        let of = |numbers: &[usize]| manifest(&numbers.iter().map(|at| layers[*at].as_slice()).collect::<Vec<_>>());
        let (one, two, three) = (of(&[0, 1]), of(&[1, 2]), of(&[3]));
        let both = index(&[&one, &two]);
        let nested = index(&[&both, &three]);
        let of_one = referrer(&Digest::of(&one));
        let of_that = referrer(&Digest::of(&of_one));
        let documents = vec![
            (one, vec![0, 1], vec![], None),
            (two, vec![1, 2], vec![], None),
            (three, vec![3], vec![], None),
            (both, vec![], vec![0, 1], None),
            (nested, vec![], vec![3, 2], None),
            (of_one, vec![], vec![], Some(0)),
            (of_that, vec![], vec![], Some(5)),
        ];
        let repositories = [Repository::image("", "a"), Repository::image("a.io", "a"), Repository::image("b.io", "b")];
        Self { layers, documents, repositories }
    }

    fn layer(&self, at: usize) -> Digest {
        Digest::of(&self.layers[at])
    }

    fn document(&self, at: usize) -> Digest {
        Digest::of(&self.documents[at].0)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Upload(usize, usize),
    Head(usize, usize),
    Mount(usize, usize, usize),
    Manifest(usize, usize),
    Whole(usize, usize),
    Tag(usize, usize, usize),
    Load(usize, usize, usize),
    Untag(usize, usize),
    Pass(i64),
    Restore(i64, bool),
    Gc(u32),
    Again,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..3_usize, 0..4_usize).prop_map(|(r, l)| Step::Upload(r, l)),
        1 => (0..3_usize, 0..4_usize).prop_map(|(r, l)| Step::Head(r, l)),
        2 => (0..3_usize, 0..3_usize, 0..4_usize).prop_map(|(r, f, l)| Step::Mount(r, f, l)),
        1 => (0..3_usize, 0..7_usize).prop_map(|(r, d)| Step::Manifest(r, d)),
        4 => (0..3_usize, 0..7_usize).prop_map(|(r, d)| Step::Whole(r, d)),
        3 => (0..3_usize, 0..2_usize, 0..7_usize).prop_map(|(r, t, d)| Step::Tag(r, t, d)),
        3 => (1..3_usize, 0..2_usize, 0..7_usize).prop_map(|(r, t, d)| Step::Load(r, t, d)),
        2 => (0..3_usize, 0..2_usize).prop_map(|(r, t)| Step::Untag(r, t)),
        3 => (0..2 * GRACE).prop_map(Step::Pass),
        1 => (0..4_i64, any::<bool>()).prop_map(|(back, local)| Step::Restore(back, local)),
        3 => (0..4_u32).prop_map(Step::Gc),
        1 => Just(Step::Again),
    ];
    prop::collection::vec(step, 1..60)
}

type Shown = (usize, Digest);

/// What must be true, told from the steps alone.
#[derive(Default)]
struct Model {
    /// When each was last renewed: what repositories show, and what there is.
    shown: BTreeMap<Shown, i64>,
    there: BTreeMap<Digest, i64>,
    entries: BTreeMap<(usize, String), Digest>,
    generation: i64,
    /// Generation, repository, name, what it was, and whether it was removed on purpose.
    history: Vec<(i64, usize, String, Option<Digest>, bool)>,
}

impl Model {
    fn set(&mut self, repository: usize, name: &str, digest: Option<Digest>, on_purpose: bool, now: i64) {
        let key = (repository, name.to_owned());
        let old = self.entries.get(&key).copied();
        if old == digest {
            return;
        }
        if let Some(shown) = old.and_then(|old| self.shown.get_mut(&(repository, old))) {
            *shown = now;
        }
        self.history.push((self.generation, repository, name.to_owned(), old, on_purpose));
        match digest {
            Some(digest) => self.entries.insert(key, digest),
            None => self.entries.remove(&key),
        };
    }

    /// Marks from the roots.
    fn collect(&mut self, world: &World, keep: u32, before: i64) {
        let links = |digest: &Digest| -> Vec<Digest> {
            let at = (0..world.documents.len()).find(|at| world.document(*at) == *digest);
            at.map_or_else(Vec::new, |at| {
                let (_, layers, children, _) = &world.documents[at];
                layers.iter().map(|at| world.layer(*at)).chain(children.iter().map(|at| world.document(*at))).collect()
            })
        };
        let referrers = |digest: &Digest| -> Vec<Digest> {
            let of = |at: &usize| world.documents[*at].3.is_some_and(|subject| world.document(subject) == *digest);
            (0..world.documents.len()).filter(of).map(|at| world.document(at)).collect()
        };
        let kept = |shown: &Shown| {
            shown.0 != 0
                && self.history.iter().any(|(generation, repository, _, old, on_purpose)| {
                    *generation > self.generation - i64::from(keep)
                        && (*repository, *old) == (shown.0, Some(shown.1))
                        && !on_purpose
                })
        };
        let named = |shown: &Shown| self.entries.iter().any(|(key, digest)| (key.0, *digest) == *shown);
        let mut open: Vec<Shown> = self
            .shown
            .iter()
            .filter(|(shown, renewed)| **renewed >= before || named(shown) || kept(shown))
            .map(|(shown, _)| *shown)
            .collect();
        let mut marked: BTreeSet<Shown> = BTreeSet::new();
        while let Some(shown) = open.pop() {
            if self.shown.contains_key(&shown) && marked.insert(shown) {
                let below = links(&shown.1).into_iter().chain(referrers(&shown.1));
                open.extend(below.map(|digest| (shown.0, digest)));
            }
        }
        self.shown.retain(|shown, _| marked.contains(shown));
        let mut open: Vec<Digest> =
            self.there.iter().filter(|(_, renewed)| **renewed >= before).map(|(d, _)| *d).collect();
        open.extend(self.shown.keys().map(|(_, digest)| *digest));
        let mut there = BTreeSet::new();
        while let Some(digest) = open.pop() {
            if self.there.contains_key(&digest) && there.insert(digest) {
                open.extend(links(&digest));
            }
        }
        self.there.retain(|digest, _| there.contains(digest));
    }
}

async fn play(steps: &[Step]) {
    let (world, folder) = (World::new(), tempfile::tempdir().unwrap());
    let (mut store, mut model, mut ahead) = (open(&folder).await, Model::default(), 0);
    for step in steps {
        // The clock of the machine goes on by itself: what matters here is hours.
        let now = store.now();
        match step {
            Step::Upload(at, layer) => upload(&store, &world, &mut model, *at, *layer).await,
            Step::Head(at, layer) => {
                let (repository, digest) = (&world.repositories[*at], world.layer(*layer));
                let found = store.granted_blob(repository, &digest).await.unwrap().is_some();
                assert_eq!(found, model.shown.contains_key(&(*at, digest)), "{step:?}");
                if found {
                    let mut change = Change::new();
                    change.renew_grant(repository, &digest);
                    store.apply(change).await.unwrap();
                    model.shown.insert((*at, digest), now);
                }
            }
            Step::Mount(to, from, layer) => {
                let digest = world.layer(*layer);
                if store.granted_blob(&world.repositories[*from], &digest).await.unwrap().is_some() {
                    let mut change = Change::new();
                    change.grant_blob(&world.repositories[*to], &digest);
                    store.apply(change).await.unwrap();
                    model.shown.insert((*to, digest), now);
                }
            }
            Step::Manifest(at, document) => bring(&store, &world, &mut model, *at, *document).await,
            Step::Whole(at, document) => whole(&store, &world, &mut model, *at, *document).await,
            Step::Tag(at, tag, document) | Step::Load(at, tag, document) => {
                let (digest, name) = (world.document(*document), format!("t{tag}"));
                if !model.shown.contains_key(&(*at, digest)) {
                    continue;
                }
                let is_load = matches!(step, Step::Load(..));
                let mut change = if is_load { Change::because(cause("load")) } else { Change::new() };
                change.force().entry(&world.repositories[*at], entry(&name, digest, now));
                store.apply(change).await.unwrap();
                if is_load && model.entries.get(&(*at, name.clone())) != Some(&digest) {
                    model.generation += 1;
                }
                model.set(*at, &name, Some(digest), false, now);
            }
            Step::Untag(at, tag) => {
                let name = format!("t{tag}");
                let mut change = Change::because(cause("rm"));
                change.remove(&world.repositories[*at], &name);
                store.apply(change).await.unwrap();
                if model.entries.contains_key(&(*at, name.clone())) {
                    model.generation += 1;
                }
                model.set(*at, &name, None, true, now);
            }
            Step::Pass(seconds) => {
                store.pass(*seconds);
                ahead += seconds;
            }
            Step::Restore(back, local) => {
                restore(&store, &mut model, &world, model_generation(&store).await - back, *local).await;
            }
            Step::Gc(keep) => {
                let before = store.now() - GRACE;
                let (would, listed) = collect(&store, *keep, true).await;
                let (swept, gone) = collect(&store, *keep, false).await;
                assert_eq!((would, listed), (swept, gone), "{step:?}");
                model.collect(&world, *keep, before);
            }
            Step::Again => {
                store.close().await;
                drop(store);
                store = open(&folder).await;
                store.pass(ahead);
            }
        }
        if matches!(step, Step::Gc(_) | Step::Restore(..)) {
            agree(&store, &world, &model, step).await;
        }
    }
    is_clean(&store).await;
    let there = model.there.keys().filter(|digest| world.layers.iter().any(|layer| Digest::of(layer) == **digest));
    assert_eq!(files(&folder.path().join("blobs")), there.count(), "files");
}

async fn model_generation(store: &Store) -> i64 {
    store.history(1).await.unwrap().first().map_or(0, |newest| newest.number)
}

async fn upload(store: &Store, world: &World, model: &mut Model, at: usize, layer: usize) {
    let mut change = Change::new();
    change.blob(Some(&world.repositories[at]), put(store, &world.layers[layer]));
    store.apply(change).await.unwrap();
    model.shown.insert((at, world.layer(layer)), store.now());
    model.there.insert(world.layer(layer), store.now());
}

/// Pushes a manifest with all that it needs.
async fn whole(store: &Store, world: &World, model: &mut Model, at: usize, document: usize) {
    let (_, layers, children, _) = &world.documents[document];
    for layer in layers {
        upload(store, world, model, at, *layer).await;
    }
    for child in children {
        Box::pin(whole(store, world, model, at, *child)).await;
    }
    bring(store, world, model, at, document).await;
}

/// Pushes a manifest whose parts the repository shows, as the server does: children that are not there are left out.
async fn bring(store: &Store, world: &World, model: &mut Model, at: usize, document: usize) {
    let (bytes, layers, children, _) = &world.documents[document];
    let has = |digest: Digest| model.shown.contains_key(&(at, digest));
    if !layers.iter().all(|layer| has(world.layer(*layer))) {
        return;
    }
    // Only whole ones, so that the model need not know what was left out.
    if !children.iter().all(|child| has(world.document(*child))) {
        return;
    }
    let mut change = Change::new();
    change.manifest(&world.repositories[at], &world.document(document), bytes.clone(), "", HashSet::new());
    store.apply(change).await.unwrap();
    model.shown.insert((at, world.document(document)), store.now());
    model.there.insert(world.document(document), store.now());
}

async fn restore(store: &Store, model: &mut Model, world: &World, to: i64, local: bool) {
    if to < 0 {
        return;
    }
    let now = store.now();
    let mut wanted: BTreeMap<(usize, String), Option<Digest>> = BTreeMap::new();
    for (generation, repository, name, old, _) in &model.history {
        if *generation > to && (*repository != 0 || local) {
            wanted.entry((*repository, name.clone())).or_insert(*old);
        }
    }
    let possible =
        wanted.iter().all(|((at, _), digest)| digest.is_none_or(|digest| model.shown.contains_key(&(*at, digest))));
    let restored = store.restore(to, local, "test").await;
    assert_eq!(restored.is_ok(), possible, "{restored:?} of {}", world.documents.len());
    if restored.is_ok_and(|applied| !applied.replaced.is_empty()) {
        model.generation += 1;
        for ((at, name), digest) in wanted {
            model.set(at, &name, digest, false, now);
        }
    }
}

async fn agree(store: &Store, world: &World, model: &Model, step: &Step) {
    for (at, repository) in world.repositories.iter().enumerate() {
        for layer in 0..world.layers.len() {
            let digest = world.layer(layer);
            let shown = store.granted_blob(repository, &digest).await.unwrap();
            assert_eq!(
                shown.is_some(),
                model.shown.contains_key(&(at, digest)),
                "{repository} layer {layer}, {step:?}"
            );
            assert!(shown.is_none_or(|blob| store.holds(&blob)), "{repository} layer {layer} is lost, {step:?}");
        }
        for document in 0..world.documents.len() {
            let digest = world.document(document);
            let shown = store.granted_manifest(repository, &digest).await.unwrap();
            assert_eq!(shown.is_some(), model.shown.contains_key(&(at, digest)), "{repository} {document}, {step:?}");
            assert!(shown.is_none_or(|manifest| manifest.complete), "{repository} {document} has a hole, {step:?}");
        }
    }
    for layer in 0..world.layers.len() {
        let digest = world.layer(layer);
        assert_eq!(
            store.blob(&digest).await.unwrap().is_some(),
            model.there.contains_key(&digest),
            "{layer}, {step:?}"
        );
    }
    for document in 0..world.documents.len() {
        let digest = world.document(document);
        let there = store.manifest(&digest).await.unwrap().is_some();
        assert_eq!(there, model.there.contains_key(&digest), "document {document}, {step:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_is_led_to_goes_and_everything_else_does(steps in steps()) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(play(&steps));
    }
}
