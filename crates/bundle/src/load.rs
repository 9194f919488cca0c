//! Load: from volumes into a store, straight to their place.
//!
//! Blobs come first, whichever volumes are there: they are hashed on the way and named in the catalog, ungranted. With
//! the plan and the trees (in the first and the last volume) come manifests, grants and entries; an entry becomes
//! visible when everything it needs is here, wherever it came from. What is still missing keeps the bundle *pending*:
//! its plan and trees stay in the catalog, and a later load of only the missing volume finishes the job.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use artifact::{Digest, Kind, Manifest, Progress, Repository};
use serde::{Deserialize, Serialize};
use store::{Applied, Cause, Change, NewBlob, Store};

use crate::document::{Assumed, Member, Part, TreeHead, What};
use crate::parity::{self, Parity};
use crate::together::Together;
use crate::tree::Tree;
use crate::verify::{Documents, documents, manifest_bytes, shown, some};
use crate::volume::Volume;
use crate::{As, Error, Names, Plan, PublicKey, Result, WantList, key, volume_name, words};

/// Seconds by which another machine's clock may be ahead: a time zone that was set wrong is less.
const DAY: i64 = 24 * 60 * 60;

/// How a bundle is to be loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Let older entries replace newer ones.
    pub force: bool,
    /// Who loads, for the history.
    pub by: String,
    /// What to call the images of an archive.
    pub rename: Option<As>,
    /// Take archives, which nobody has signed, although keys are trusted here.
    pub unsigned: bool,
}

/// A bundle of which something is still missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What is missing, each in words.
    pub missing: Vec<String>,
    /// How many entries wait for it; `None`: the list of entries itself is missing.
    pub entries: Option<u64>,
}

/// What a load did to one bundle.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The bundle's id in hex.
    pub id: String,
    /// The same as eight words.
    pub words: String,
    /// Who signed it.
    pub fingerprint: String,
    /// By which name that key is trusted; `None`: no key is trusted here yet.
    pub trusted: Option<String>,
    /// Blobs that were written, and their bytes.
    pub written: (u64, u64),
    /// Blobs that were here already.
    pub present: u64,
    /// Entries that the bundle has and that are whole.
    pub entries: u64,
    /// What changed.
    pub applied: Applied,
    /// The names of its entries; `None`: what it holds was not to be read, in none of these volumes.
    pub names: Option<Names>,
    /// What is damaged, each in words.
    pub damage: Vec<String>,
    /// Volumes whose tar another program wrote again on the way, each in words.
    pub rewritten: Vec<String>,
    /// Still missing, when something is.
    pub pending: Option<Pending>,
    /// Things that the bundle takes to be here already, and how many of them are not.
    pub assumed: (u64, u64),
    /// The file that lists what must be sent for besides whole volumes: what was assumed and is not here, and members
    /// that were damaged or taken out.
    pub want: Option<PathBuf>,
    /// The volumes that were brought back from parity.
    pub rebuilt: Vec<u32>,
}

/// Loads volumes, of one bundle or of several: each bundle by itself. The files were opened by the caller; their paths
/// name them in messages.
pub async fn load(
    store: &Store,
    files: Vec<(PathBuf, File)>,
    options: &LoadOptions,
    progress: Arc<dyn Progress>,
) -> Result<Vec<Loaded>> {
    let trusted = key::trusted(store).await?;
    let (mut bundles, mut damage): (BTreeMap<Digest, Vec<Volume>>, Vec<Error>) = Default::default();
    let alone = files.len() == 1;
    let mut parities: BTreeMap<Digest, Vec<Parity>> = BTreeMap::new();
    for (path, file) in files {
        if Parity::is_one(&file) {
            // A parity file that cannot be read covers nothing; whether that matters is seen later.
            match Parity::read(&path, file) {
                Ok(parity) => match parity.check_trust(&trusted) {
                    Ok(()) => parities.entry(parity.bundle()).or_default().push(parity),
                    Err(error) => progress.warn(&format!("it covers nothing: {error}")),
                },
                Err(error) => progress.warn(&error.to_string()),
            }
            continue;
        }
        let known = trusted.clone();
        match tokio::task::spawn_blocking(move || Volume::read_trusted(&path, file, &known)).await? {
            Ok(volume) => {
                bundles.entry(volume.head.bundle).or_default().push(volume);
            }
            // One volume that is damaged does not keep the others out; a stranger's does.
            Err(
                error @ (Error::NotAVolume { .. } | Error::Io { .. } | Error::Damaged { .. } | Error::Signature { .. }),
            ) if !alone => damage.push(error),
            Err(error) => return Err(error),
        }
    }
    // Where there is as much parity as there are volumes, none of those is needed.
    for (id, parities) in &parities {
        if parities.first().is_some_and(|first| first.volumes() <= parities.len()) {
            bundles.entry(*id).or_default();
        }
    }
    if bundles.is_empty() {
        return Err(damage.pop().unwrap_or(Error::NoVolumes { path: PathBuf::from("what was given") }));
    }
    let mut all = Vec::new();
    let loading = |id: Digest| Loading { store, id, options, progress: &progress };
    for (id, volumes) in bundles {
        let covering = parities.get(&id).and_then(|parities| parities.first());
        let signer = volumes.first().map(|volume| &volume.key).or(covering.map(Parity::key));
        let trusted = trusted.iter().find(|one| signer == Some(&one.key));
        let mut loaded = Loaded {
            id: id.hex(),
            words: words(&id),
            fingerprint: signer.map(PublicKey::fingerprint).unwrap_or_default(),
            trusted: trusted.map(|one| one.name.clone()),
            damage: damage.iter().map(ToString::to_string).collect(),
            ..Loaded::default()
        };
        let volumes = Arc::new(volumes);
        loading(id).run(Arc::clone(&volumes), &mut loaded).await?;
        let is_short = loaded.pending.is_some() || !loaded.damage.is_empty();
        if let Some(parities) = parities.remove(&id).filter(|_| is_short) {
            loading(id).rebuild(volumes, parities, &mut loaded).await?;
        }
        all.push(loaded);
    }
    // What arrived may be what another bundle waits for.
    for document in store.documents("bundle/").await? {
        let id = document.strip_prefix("bundle/").and_then(|rest| rest.strip_suffix("/plan"));
        let Some(id) = id.and_then(|hex| Digest::from_hex(hex).ok()) else { continue };
        if all.iter().all(|loaded| loaded.id != id.hex()) {
            match loading(id).finish(&trusted).await {
                Ok(finished) => all.extend(finished),
                // It waits on; what was loaded now is loaded.
                Err(error) => {
                    progress.warn(&format!("the bundle {}, which waits, cannot be finished: {error}", words(&id)));
                }
            }
        }
    }
    Ok(all)
}

struct Loading<'a> {
    store: &'a Store,
    id: Digest,
    options: &'a LoadOptions,
    progress: &'a Arc<dyn Progress>,
}

/// What a worker brings.
enum Brought {
    Blob(NewBlob),
    /// Pieces of a blob that are on disk and durable now, too.
    Pieces(Digest, Vec<(u64, u64)>),
    /// The pieces of a blob were wrong, and are gone.
    NoPieces(Digest),
    Damage(String),
}

impl Loading<'_> {
    async fn run(&self, volumes: Arc<Vec<Volume>>, loaded: &mut Loaded) -> Result<()> {
        let read = Arc::clone(&volumes);
        let documents = tokio::task::spawn_blocking(move || documents(&read)).await??;
        let remembered = match &documents {
            Some(Documents { plan, trees }) => {
                self.remember(plan, trees).await?;
                if let Some(volume) = volumes.first() {
                    let signer = volume.key.to_line();
                    self.store.document_once(&self.document("signer"), signer.as_bytes()).await?;
                }
                documents
            }
            None => self.recall().await?,
        };
        if let Some(Documents { plan, .. }) = remembered.as_ref().filter(|documents| !documents.plan.assumes.is_empty())
        {
            let lacking = self.lacking(&plan.assumes).await?;
            loaded.assumed = (plan.assumes.len() as u64, lacking.len() as u64);
            self.progress.say(&format!(
                "the bundle is a difference: it takes {} things to be here, and {} of them are not",
                plan.assumes.len(),
                lacking.len()
            ));
        }
        self.blobs(&volumes, loaded).await?;
        for volume in volumes.iter() {
            // A copy of the volume may have it still.
            let is_gone = |member: &&Member| volumes.iter().all(|other| other.member(&member.name).is_none());
            loaded.damage.extend(volume.removed.iter().filter(is_gone).map(|member| volume.removal(member)));
            loaded.rewritten.extend(volume.rewriting());
        }
        if let Some(documents) = remembered {
            return self.entries(&volumes, documents, loaded).await;
        }
        if self.store.document(&format!("loaded/{}", self.id.hex())).await?.is_some() && loaded.damage.is_empty() {
            // All of it was loaded before, and its list is needed no more.
            return Ok(());
        }
        let missing = vec!["the list of what the bundle holds: it is in its first and in its last volume".to_owned()];
        loaded.pending = Some(Pending { missing, entries: None });
        self.set_pending(loaded.pending.as_ref()).await
    }

    /// Brings back, from parity, the volumes that are missing or damaged, and loads them. They lie in the store while
    /// that lasts: nothing is written to the medium.
    async fn rebuild(&self, volumes: Arc<Vec<Volume>>, parities: Vec<Parity>, loaded: &mut Loaded) -> Result<()> {
        let into = self.store.folder().join("partial").join(format!("rebuilt-{}", self.id.hex()));
        // Of a run that was cut short.
        let _ = std::fs::remove_dir_all(&into);
        let (folder, progress) = (into.clone(), Arc::clone(self.progress));
        let rebuilt = tokio::task::spawn_blocking(move || {
            let files: Vec<_> = volumes.iter().map(|volume| (volume.path.as_path(), &*volume.file)).collect();
            let paths = parity::rebuild(&files, &parities, &folder, progress.as_ref())?;
            paths.iter().map(|path| Volume::open(path)).collect::<Result<Vec<_>>>()
        });
        let outcome = match rebuilt.await? {
            Ok(rebuilt) if rebuilt.is_empty() => Ok(()),
            Ok(rebuilt) => {
                loaded.rebuilt = rebuilt.iter().map(|volume| volume.head.volume).collect();
                loaded.damage.clear();
                (loaded.pending, loaded.want, loaded.entries) = (None, None, 0);
                let before = std::mem::take(&mut loaded.applied);
                let outcome = self.run(Arc::new(rebuilt), loaded).await;
                loaded.applied.replaced.splice(0..0, before.replaced);
                loaded.applied.kept.splice(0..0, before.kept);
                outcome
            }
            // What was loaded is loaded, and what is missing was named.
            Err(error) => {
                self.progress.warn(&error.to_string());
                Ok(())
            }
        };
        let _ = std::fs::remove_dir_all(&into);
        outcome
    }

    /// Looks at a bundle that waits, when others have been loaded; answers it if that changed something.
    async fn finish(&self, trusted: &[key::Trusted]) -> Result<Option<Loaded>> {
        let Some(documents) = self.recall().await? else { return Ok(None) };
        let signer = self.store.document(&self.document("signer")).await?.unwrap_or_default();
        let Ok(signer) = PublicKey::parse(&String::from_utf8_lossy(&signer), "its signer") else { return Ok(None) };
        let name = trusted.iter().find(|one| one.key == signer).map(|one| one.name.clone());
        if name.is_none() && !trusted.is_empty() {
            return Ok(None);
        }
        let mut loaded = Loaded {
            id: self.id.hex(),
            words: words(&self.id),
            fingerprint: signer.fingerprint(),
            trusted: name,
            ..Loaded::default()
        };
        self.entries(&Arc::new(Vec::new()), documents, &mut loaded).await?;
        Ok((loaded.pending.is_none() || !loaded.applied.replaced.is_empty()).then_some(loaded))
    }

    /// Which of these are not here.
    async fn lacking(&self, assumed: &[Assumed]) -> Result<Vec<Assumed>> {
        let mut lacking = Vec::new();
        for one in assumed {
            let is_here = if one.manifest {
                self.store.manifest(&one.digest).await?.is_some()
            } else {
                self.store.blob(&one.digest).await?.is_some()
            };
            if !is_here {
                lacking.push(one.clone());
            }
        }
        Ok(lacking)
    }

    /// What must be sent for: what is assumed and not here, what these volumes should have brought, and what earlier
    /// ones should have. Written where its user can read it, and kept until the bundle is whole.
    async fn want(
        &self,
        plan: &Plan,
        volumes: &[Volume],
        waiting: &BTreeMap<Digest, BTreeSet<String>>,
    ) -> Result<Option<WantList>> {
        let name = self.document("want");
        let mut list = WantList::new(self.id);
        let before = self.store.document(&name).await?;
        let before = before.and_then(|bytes| serde_json::from_slice::<WantList>(&bytes).ok());
        for one in self.lacking(&plan.assumes).await? {
            list.add(&one, waiting.get(&one.digest));
        }
        let brought = volumes.iter().flat_map(|volume| volume.head.members.iter().chain(&volume.removed));
        let brought = brought.filter_map(|member| match member.what()? {
            What::Blob(digest) => Some(Assumed { digest, size: member.size, manifest: false }),
            What::Manifest(digest) => Some(Assumed { digest, size: member.size, manifest: true }),
            _ => None,
        });
        let before = before.iter().flat_map(|list| &list.things).map(|(digest, wanting)| Assumed {
            digest: *digest,
            size: wanting.size,
            manifest: wanting.manifest,
        });
        for one in before.chain(brought) {
            if let Some(names) = waiting.get(&one.digest) {
                list.add(&one, Some(names));
            }
        }
        let list = Some(list).filter(|list| !list.things.is_empty());
        let bytes = list.as_ref().and_then(|list| serde_json::to_vec(list).ok());
        self.store.set_document(&name, bytes.as_deref()).await?;
        Ok(list)
    }

    fn document(&self, what: &str) -> String {
        format!("bundle/{}/{what}", self.id.hex())
    }

    /// Keeps the plan and the trees until the bundle is whole.
    async fn remember(&self, plan: &Plan, trees: &[Tree]) -> Result<()> {
        for (head, tree) in plan.trees.iter().zip(trees) {
            let name = self.document(&format!("tree/{}", head.digest.hex()));
            self.store.document_once(&name, &tree.to_bytes()).await?;
        }
        let bytes = serde_json::to_vec(&(plan, &plan.volumes, &plan.assumes)).unwrap_or_default();
        self.store.document_once(&self.document("plan"), &bytes).await?;
        Ok(())
    }

    /// The plan and the trees of an earlier load.
    async fn recall(&self) -> Result<Option<Documents>> {
        let Some(bytes) = self.store.document(&self.document("plan")).await? else { return Ok(None) };
        let path = std::path::Path::new("the plan of an earlier load");
        let (mut plan, volumes, assumes): (Plan, _, _) =
            serde_json::from_slice(&bytes).map_err(|error| Error::not_a_volume(path, error.to_string()))?;
        (plan.volumes, plan.assumes) = (volumes, assumes);
        let mut trees = Vec::new();
        for TreeHead { digest, .. } in &plan.trees {
            let Some(bytes) = self.store.document(&self.document(&format!("tree/{}", digest.hex()))).await? else {
                return Ok(None);
            };
            trees.push(Tree::parse(&bytes, digest)?);
        }
        Ok(Some(Documents { plan, trees }))
    }

    /// Beside the catalog, for whoever must carry it out.
    fn want_path(&self) -> PathBuf {
        let hex = self.id.hex();
        self.store.folder().join("want").join(format!("{}.txt", hex.get(..12).unwrap_or(&hex)))
    }

    async fn set_pending(&self, pending: Option<&Pending>) -> Result<()> {
        let name = self.document("pending");
        if let Some(pending) = pending {
            let bytes = serde_json::to_vec(pending).unwrap_or_default();
            self.store.set_document(&name, Some(&bytes)).await?;
        } else {
            for name in self.store.documents(&self.document("")).await? {
                self.store.set_document(&name, None).await?;
            }
            let _ = std::fs::remove_file(self.want_path());
        }
        Ok(())
    }

    /// Brings every blob of these volumes that the store has not.
    async fn blobs(&self, volumes: &Arc<Vec<Volume>>, loaded: &mut Loaded) -> Result<()> {
        let mut plain: Vec<(usize, Member)> = Vec::new();
        let mut cut: BTreeMap<Digest, Vec<(usize, Member, Part)>> = BTreeMap::new();
        let mut seen = HashSet::new();
        for (number, volume) in volumes.iter().enumerate() {
            for member in &volume.head.members {
                match (member.what(), &member.part) {
                    (Some(What::Blob(digest)), _) if seen.insert(digest) => {
                        if self.store.blob(&digest).await?.is_some() {
                            loaded.present += 1;
                        } else {
                            plain.push((number, member.clone()));
                        }
                    }
                    (Some(What::Part(digest)), Some(part)) => {
                        let pieces = cut.entry(digest).or_default();
                        if !pieces.iter().any(|(_, known, _)| known.name == member.name) {
                            pieces.push((number, member.clone(), part.clone()));
                        }
                    }
                    _ => {}
                }
            }
        }
        let mut work: Vec<Work> = Vec::new();
        for (digest, mut pieces) in cut {
            if self.store.blob(&digest).await?.is_some() {
                loaded.present += 1;
                continue;
            }
            let Some(size) = pieces.first().map(|(_, _, part)| part.size) else { continue };
            let known = self.pieces(&digest).await?;
            pieces.retain(|(_, member, part)| part.size == size && !covers(&known, part.at, member.size));
            if !pieces.is_empty() || covers(&known, 0, size) {
                work.push(Work::Cut { digest, size, pieces, known });
            }
        }
        // The largest first: the last to finish should be a small one.
        plain.sort_by_key(|(_, member)| std::cmp::Reverse(member.size));
        work.extend(plain.into_iter().map(|(number, member)| Work::Plain(number, member)));
        let total = work.iter().map(Work::size).sum::<u64>();
        let free = self.store.free_space()?;
        if total > free {
            return Err(Error::NoSpace { path: self.store.folder().to_owned(), needed: total, free });
        }
        self.progress.begin("load", total);
        let (store, volumes, progress) = (self.store.clone(), Arc::clone(volumes), Arc::clone(self.progress));
        // An error is of our own disk, not of the medium.
        let mut together = Together::begin(work, move |work| bring(&store, &volumes, work, progress.as_ref()));
        loop {
            let group = together.group().await;
            if group.is_empty() {
                break;
            }
            let mut change = Change::new();
            let mut whole = Vec::new();
            for one in group {
                match one {
                    Brought::Blob(blob) => {
                        whole.push(*blob.digest());
                        loaded.written.0 += 1;
                        loaded.written.1 += blob.size();
                        change.blob(None, blob);
                    }
                    Brought::Pieces(digest, pieces) => self.add_pieces(&digest, &pieces).await?,
                    Brought::NoPieces(digest) => self.forget_pieces(&digest).await?,
                    Brought::Damage(damage) => loaded.damage.push(damage),
                }
            }
            self.store.apply(change).await?;
            // Only now are the pieces of a cut blob needed no more.
            for digest in whole {
                if !self.pieces(&digest).await?.is_empty() {
                    self.forget_pieces(&digest).await?;
                }
            }
        }
        self.progress.end();
        loaded.damage.sort();
        together.end()
    }

    /// Which pieces of a cut blob are on disk already: offset and length.
    async fn pieces(&self, digest: &Digest) -> Result<Vec<(u64, u64)>> {
        let bytes = self.store.document(&format!("pieces/{}", digest.hex())).await?;
        Ok(bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    /// Another load may bring other pieces of the same blob meanwhile.
    async fn add_pieces(&self, digest: &Digest, brought: &[(u64, u64)]) -> Result<()> {
        let add = |there: Option<Vec<u8>>| {
            let known = there.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let mut pieces: BTreeSet<(u64, u64)> = known.unwrap_or_default();
            pieces.extend(brought);
            (!pieces.is_empty()).then(|| serde_json::to_vec(&pieces).unwrap_or_default())
        };
        Ok(self.store.revise_document(&format!("pieces/{}", digest.hex()), add).await?)
    }

    async fn forget_pieces(&self, digest: &Digest) -> Result<()> {
        Ok(self.store.set_document(&format!("pieces/{}", digest.hex()), None).await?)
    }

    /// Makes visible what is whole, and says what is not.
    async fn entries(&self, volumes: &Arc<Vec<Volume>>, documents: Documents, loaded: &mut Loaded) -> Result<()> {
        let Documents { plan, trees } = documents;
        // Who answers for what changed: the one who loads, and the one who signed.
        let by = match &loaded.trusted {
            Some(name) => format!("{}, signed by {} ({name})", self.options.by, loaded.fingerprint),
            None => format!("{}, signed by {} (no key is trusted)", self.options.by, loaded.fingerprint),
        };
        let cause = Cause { action: "load".to_owned(), subject: self.id.hex(), by };
        let mut visible = Change::because(cause);
        if self.options.force {
            visible.force();
        }
        let mut waiting: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
        let mut entries = 0;
        // An entry of a clock that was far ahead would keep every later one out.
        let (now, mut ahead) = (self.store.now(), 0_u64);
        let latest = now.saturating_add(DAY);
        for tree in &trees {
            let names = tree.entries.values().map(|entry| entry.name.clone());
            loaded.names.get_or_insert_default().entry(tree.repository.clone()).or_default().extend(names);
            let graph = self.manifests(volumes, tree).await?;
            for entry in tree.entries.values() {
                let (needed, holes) = self.holes(tree, &graph, &entry.digest).await?;
                let shown = shown(&tree.repository, &entry.name);
                if holes.is_empty() {
                    loaded.entries += 1;
                    // What this side has made is never touched.
                    if tree.repository.is_local() {
                        let own = self.store.entry(&tree.repository, &entry.name).await?;
                        if own.is_some_and(|own| own.digest != entry.digest) {
                            self.progress.warn(&format!("{shown} is a local one here and stays as it is"));
                            continue;
                        }
                    }
                    for blob in needed {
                        visible.grant_blob(&tree.repository, &blob);
                    }
                    let mut entry = entry.clone();
                    if entry.seen > latest {
                        ahead += 1;
                        entry.seen = now;
                    }
                    visible.entry(&tree.repository, entry);
                } else {
                    entries += 1;
                }
                for hole in holes {
                    waiting.entry(hole).or_default().insert(shown.clone());
                }
            }
            // What no entry names (a signature, an attestation) is granted what it needs, as far as it is here.
            for (parent, children) in &graph {
                if tree.manifests.contains_key(parent) {
                    for (child, is_manifest) in children {
                        if *is_manifest {
                            continue;
                        }
                        if self.store.blob(child).await?.is_some() {
                            visible.grant_blob(&tree.repository, child);
                        } else {
                            waiting.entry(*child).or_default().insert(shown(&tree.repository, &parent.to_string()));
                        }
                    }
                }
            }
        }
        if ahead > 0 {
            self.progress.warn(&format!(
                "{ahead} entries say that their upstream was asked more than a day from now: they are taken as of now; \
                 look at the clock there, and here"
            ));
        }
        loaded.applied = self.store.apply(visible).await?;
        say_what_shares_a_path(self.store, &loaded.applied, self.progress.as_ref()).await?;
        if waiting.is_empty() {
            self.store.set_document(&format!("loaded/{}", self.id.hex()), Some(b"")).await?;
            return self.set_pending(None).await;
        }
        // Blobs were hashed when they were brought; a manifest that a volume has and nobody could read is damaged.
        for volume in volumes.iter() {
            let lacking = |member: &&Member| match member.what() {
                Some(What::Manifest(digest)) => waiting.contains_key(&digest),
                _ => false,
            };
            loaded.damage.extend(volume.head.members.iter().filter(lacking).map(|member| volume.damage(member)));
        }
        let mut on_disk: HashMap<Digest, Vec<(u64, u64)>> = HashMap::new();
        for digest in waiting.keys() {
            on_disk.insert(*digest, self.pieces(digest).await?);
        }
        let mut missing = missing(&plan, &waiting, &on_disk);
        if let Some(want) = self.want(&plan, volumes, &waiting).await? {
            let path = self.want_path();
            want.write(&path)?;
            missing.push(format!(
                "{} things, {} bytes, that no volume will bring: they are listed in {}",
                want.things.len(),
                want.bytes(),
                path.display()
            ));
            loaded.want = Some(path);
        }
        loaded.pending = Some(Pending { missing, entries: Some(entries) });
        self.set_pending(loaded.pending.as_ref()).await
    }

    /// Puts a tree's manifests into the catalog, children first, and answers what each points at within what is carried.
    async fn manifests(&self, volumes: &Arc<Vec<Volume>>, tree: &Tree) -> Result<HashMap<Digest, Vec<(Digest, bool)>>> {
        let mut graph: HashMap<Digest, Vec<(Digest, bool)>> = HashMap::new();
        let mut documents: HashMap<Digest, bytes::Bytes> = HashMap::new();
        for (digest, known) in &tree.manifests {
            let bytes = match self.store.granted_manifest(&tree.repository, digest).await? {
                Some(there) => there.bytes,
                None => match manifest_bytes(volumes, digest) {
                    Some(bytes) => bytes.into(),
                    None => match self.store.manifest(digest).await? {
                        Some(there) => there.bytes,
                        None => continue,
                    },
                },
            };
            let read = Manifest::parse(&bytes, &known.media_type)
                .map_err(|source| store::Error::Manifest { digest: *digest, source })?;
            let carried = |child: &&artifact::Descriptor| !known.omitted.contains(&child.digest);
            let children = read.manifests.iter().filter(carried).map(|child| (child.digest, true));
            let blobs = read.blobs().filter(carried).map(|child| (child.digest, false));
            graph.insert(*digest, children.chain(blobs).collect());
            documents.insert(*digest, bytes);
        }
        let mut change = Change::new();
        for digest in children_first(&graph) {
            if let (Some(bytes), Some(known)) = (documents.remove(&digest), tree.manifests.get(&digest)) {
                let omitted = known.omitted.iter().copied().collect();
                change.manifest(&tree.repository, &digest, bytes, &known.media_type, omitted);
            }
        }
        self.store.apply(change).await?;
        Ok(graph)
    }

    /// The blobs that an entry needs, and what of it all is not here.
    async fn holes(
        &self,
        tree: &Tree,
        graph: &HashMap<Digest, Vec<(Digest, bool)>>,
        root: &Digest,
    ) -> Result<(Vec<Digest>, Vec<Digest>)> {
        let (mut needed, mut holes, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
        let mut open = vec![(*root, tree.repository.kind == Kind::Image)];
        while let Some((digest, is_manifest)) = open.pop() {
            if !seen.insert(digest) {
                continue;
            }
            if is_manifest {
                match graph.get(&digest) {
                    Some(children) => open.extend(children),
                    None => holes.push(digest),
                }
            } else if self.store.blob(&digest).await?.is_some() {
                needed.push(digest);
            } else {
                holes.push(digest);
            }
        }
        Ok((needed, holes))
    }
}

/// A local image and a mirrored one of the same path: who names no host means one of them.
pub(crate) async fn say_what_shares_a_path(store: &Store, applied: &Applied, progress: &dyn Progress) -> Result<()> {
    let new: BTreeSet<&Repository> =
        applied.replaced.iter().filter(|change| change.old.is_none()).map(|change| &change.repository).collect();
    for repository in new.into_iter().filter(|repository| repository.kind == Kind::Image) {
        let others = match repository.host.as_str() {
            "" => store.hosts(Kind::Image).await?,
            _ => vec![String::new()],
        };
        for host in others.into_iter().filter(|host| host.is_empty() != repository.host.is_empty()) {
            let other = Repository::image(host, repository.name.clone());
            if !store.entries(&other, "", 1).await?.is_empty() {
                let (own, mirrored) = if other.is_local() { (&other, repository) } else { (repository, &other) };
                progress.warn(&format!(
                    "the local {own} and {mirrored} have one path: a client that names no host gets the local one, \
                     unless the server's `order` says otherwise"
                ));
            }
        }
    }
    Ok(())
}

/// One thing for a worker to bring.
enum Work {
    Plain(usize, Member),
    /// Pieces of a blob of `size` bytes to bring, and those that are on disk.
    Cut {
        digest: Digest,
        size: u64,
        pieces: Vec<(usize, Member, Part)>,
        known: Vec<(u64, u64)>,
    },
}

impl Work {
    fn size(&self) -> u64 {
        match self {
            Self::Plain(_, member) => member.size,
            Self::Cut { pieces, .. } => pieces.iter().map(|(_, member, _)| member.size).sum(),
        }
    }
}

/// Brings one blob, or what pieces there are of one. A damaged member is an answer; only our own disk is an error.
fn bring(store: &Store, volumes: &[Volume], work: &Work, progress: &dyn Progress) -> Result<Vec<Brought>> {
    match work {
        Work::Plain(number, member) => {
            let Some(What::Blob(digest)) = member.what() else { return Ok(Vec::new()) };
            let mut blob = None;
            let damage = from_a_copy(volumes, *number, member, progress, |volume, member| {
                let mut writer = store.writer(Some(&digest))?;
                let is_right = volume.stream(member, |_, bytes| {
                    progress.advance(bytes.len() as u64);
                    Ok(writer.write(bytes)?)
                })?;
                if is_right {
                    blob = match writer.finish() {
                        Err(store::Error::Mismatch { .. }) => None,
                        finished => Some(finished?),
                    };
                }
                Ok(blob.is_some())
            })?;
            Ok(blob.map(Brought::Blob).into_iter().chain(damage.into_iter().map(Brought::Damage)).collect())
        }
        Work::Cut { digest, size, pieces, known } => {
            let mut patchwork = store.patchwork(digest, *size)?;
            let (mut brought, mut fresh) = (Vec::new(), Vec::new());
            for (number, member, part) in pieces {
                let damage = from_a_copy(volumes, *number, member, progress, |volume, member| {
                    volume.stream(member, |at, bytes| {
                        progress.advance(bytes.len() as u64);
                        Ok(patchwork.write_at(part.at + at, bytes)?)
                    })
                })?;
                if damage.is_empty() {
                    fresh.push((part.at, member.size));
                }
                brought.extend(damage.into_iter().map(Brought::Damage));
            }
            if covers(&[known.as_slice(), fresh.as_slice()].concat(), 0, *size) {
                match patchwork.finish() {
                    Ok(blob) => brought.push(Brought::Blob(blob)),
                    Err(store::Error::Mismatch { .. }) => {
                        brought.push(Brought::NoPieces(*digest));
                        brought.push(Brought::Damage(format!("the pieces of {digest} do not make it")));
                    }
                    Err(error) => return Err(error.into()),
                }
            } else {
                patchwork.keep()?;
                brought.push(Brought::Pieces(*digest, fresh));
            }
            Ok(brought)
        }
    }
}

/// Takes a member from the first volume that has it undamaged: somebody may have brought two copies of one. Answers
/// where it is damaged, if it is in all of them; an error is of our own disk, not of a medium.
fn from_a_copy(
    volumes: &[Volume],
    number: usize,
    member: &Member,
    progress: &dyn Progress,
    mut take: impl FnMut(&Volume, &Member) -> Result<bool>,
) -> Result<Vec<String>> {
    let mut damage = Vec::new();
    for volume in volumes.iter().skip(number) {
        let Some(copy) = volume.member(&member.name) else { continue };
        match take(volume, copy) {
            Ok(true) => {
                for damage in damage {
                    progress.warn(&format!("{damage}; {} has it right", volume.path.display()));
                }
                return Ok(Vec::new());
            }
            Ok(false) => damage.push(volume.damage(copy)),
            Err(error @ Error::Store(_)) => return Err(error),
            Err(error) => damage.push(format!("{}: {error}", volume.damage(copy))),
        }
    }
    Ok(damage)
}

/// Whether these ranges (offset, length) cover `length` bytes from `at`.
fn covers(ranges: &[(u64, u64)], at: u64, length: u64) -> bool {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let end = at.saturating_add(length);
    let mut reached = at;
    for (from, length) in sorted {
        if from <= reached {
            reached = reached.max(from.saturating_add(length));
        }
    }
    reached >= end
}

/// Digests in an order in which children stand before their parents.
fn children_first(graph: &HashMap<Digest, Vec<(Digest, bool)>>) -> Vec<Digest> {
    let mut roots: Vec<&Digest> = graph.keys().collect();
    roots.sort();
    let (mut order, mut seen) = (Vec::with_capacity(graph.len()), HashSet::new());
    for root in roots {
        let mut open = vec![(*root, false)];
        while let Some((digest, done)) = open.pop() {
            if done {
                order.push(digest);
            } else if graph.contains_key(&digest) && seen.insert(digest) {
                open.push((digest, true));
                open.extend(
                    graph.get(&digest).into_iter().flatten().filter(|child| child.1).map(|child| (child.0, false)),
                );
            }
        }
    }
    order
}

/// What is missing, volume by volume.
fn missing(
    plan: &Plan,
    waiting: &BTreeMap<Digest, BTreeSet<String>>,
    on_disk: &HashMap<Digest, Vec<(u64, u64)>>,
) -> Vec<String> {
    let (mut said, mut named) = (Vec::new(), HashSet::new());
    for (number, members) in plan.volumes.iter().enumerate() {
        let mut needed_by = BTreeSet::new();
        let (mut count, mut bytes) = (0, 0);
        for member in members {
            if let Some(What::Blob(digest) | What::Part(digest) | What::Manifest(digest)) = member.what() {
                let is_on_disk = member.part.as_ref().is_some_and(|part| {
                    on_disk.get(&digest).is_some_and(|pieces| covers(pieces, part.at, member.size))
                });
                if let Some(entries) = waiting.get(&digest).filter(|_| !is_on_disk) {
                    named.insert(digest);
                    needed_by.extend(entries.iter().map(String::as_str));
                    count += 1;
                    bytes += member.size;
                }
            }
        }
        if count > 0 {
            let list: Vec<&str> = needed_by.into_iter().collect();
            let name = volume_name(number + 1, "");
            said.push(format!(
                "volume {} ({name}): {count} members, {bytes} bytes, needed by {}",
                number + 1,
                some(&list)
            ));
        }
    }
    let assumed: HashSet<Digest> = plan.assumes.iter().map(|assumed| assumed.digest).collect();
    let elsewhere = |digest: &Digest| !named.contains(digest) && !assumed.contains(digest);
    for (digest, entries) in waiting.iter().filter(|(digest, _)| elsewhere(digest)) {
        let list: Vec<&str> = entries.iter().map(String::as_str).collect();
        said.push(format!("{digest}, needed by {}", some(&list)));
    }
    said
}
