//! Load: from volumes into a store, straight to their place.
//!
//! Blobs come first, whichever volumes are there: they are hashed on the way and named in the catalog, ungranted. With
//! the plan and the trees (in the first and the last volume) come manifests, grants and entries; an entry becomes
//! visible when everything it needs is here, wherever it came from. What is still missing keeps the bundle *pending*:
//! its plan and trees stay in the catalog, and a later load of only the missing volume finishes the job.

mod blobs;
mod entries;
mod spares;

pub use spares::Spares;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use artifact::{Digest, Kind, Progress, Repository};
use serde::{Deserialize, Serialize};
use store::{Applied, Store};

use crate::document::{Assumed, Member, TreeHead, What};
use crate::parity::{self, Parity};
use crate::tree::Tree;
use crate::verify::{Documents, documents};
use crate::volume::Volume;
use crate::{As, Error, Names, Plan, PublicKey, Result, WantList, is_named_parity, key, roots, words};

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
    /// That key, as `naru key trust` takes it.
    pub key: String,
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
    let Opened { mut bundles, mut parities, mut damage } = open(&trusted, files, progress.as_ref()).await?;
    // Where there is as much parity as there are volumes, none of those is needed.
    for (id, parities) in &parities {
        if parities.first().is_some_and(|first| first.volumes() <= parities.len()) {
            bundles.entry(*id).or_default();
        }
    }
    if bundles.is_empty() {
        let nothing = || match parities.values().flatten().next() {
            Some(parity) => parity.alone(parities.values().flatten().count()),
            None => Error::NoVolumes { path: PathBuf::from("what was given") },
        };
        return Err(damage.pop().unwrap_or_else(nothing));
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
            key: signer.map(PublicKey::to_line).unwrap_or_default(),
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

/// Volumes and parity files, by the bundle that they are of.
#[derive(Default)]
struct Opened {
    bundles: BTreeMap<Digest, Vec<Volume>>,
    parities: BTreeMap<Digest, Vec<Parity>>,
    /// What could not be read.
    damage: Vec<Error>,
}

/// Opens what was given, as far as it is signed by a key that is trusted here.
async fn open(trusted: &[key::Trusted], files: Vec<(PathBuf, File)>, progress: &dyn Progress) -> Result<Opened> {
    let mut opened = Opened::default();
    let alone = files.len() == 1;
    for (path, file) in files {
        if Parity::is_one(&file) || is_named_parity(&path) {
            // A parity file that cannot be read covers nothing; whether that matters is seen later.
            match Parity::read(&path, file) {
                Ok(parity) => match parity.check_trust(trusted) {
                    Ok(()) => opened.parities.entry(parity.bundle()).or_default().push(parity),
                    Err(error) => progress.warn(&format!("it covers nothing: {error}")),
                },
                Err(error) => progress.warn(&error.to_string()),
            }
            continue;
        }
        let known = trusted.to_vec();
        match tokio::task::spawn_blocking(move || Volume::read_trusted(&path, file, &known)).await? {
            Ok(volume) => {
                opened.bundles.entry(volume.head.bundle).or_default().push(volume);
            }
            // One volume that is damaged does not keep the others out; a stranger's does.
            Err(
                error @ (Error::NotAVolume { .. } | Error::Io { .. } | Error::Damaged { .. } | Error::Signature { .. }),
            ) if !alone => opened.damage.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok(opened)
}

struct Loading<'a> {
    store: &'a Store,
    id: Digest,
    options: &'a LoadOptions,
    progress: &'a Arc<dyn Progress>,
}

impl Loading<'_> {
    async fn run(&self, volumes: Arc<Vec<Volume>>, loaded: &mut Loaded) -> Result<()> {
        let read = Arc::clone(&volumes);
        let documents = tokio::task::spawn_blocking(move || documents(&read)).await??;
        let remembered = match documents {
            Some(Documents { mut plan, trees }) => {
                self.remember(&plan, &trees).await?;
                // They are as long as all that is carried; who needs them asks again.
                plan.volumes = Vec::new();
                if let Some(volume) = volumes.first() {
                    let signer = volume.key.to_line();
                    self.store.document_once(&self.document("signer"), signer.as_bytes()).await?;
                }
                Some(Documents { plan, trees })
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
        let begun = self.store.now().to_string();
        self.store.document_once(&self.document(roots::SINCE), begun.as_bytes()).await?;
        self.blobs(&volumes, &|_| true, loaded).await?;
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
            return self.set_pending(None).await;
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
            key: signer.to_line(),
            trusted: name,
            ..Loaded::default()
        };
        self.entries(&Arc::new(Vec::new()), documents, &mut loaded).await?;
        Ok((loaded.pending.is_none() || !loaded.applied.replaced.is_empty()).then_some(loaded))
    }

    /// Which of these are not here.
    async fn lacking(&self, assumed: &[Assumed]) -> Result<Vec<Assumed>> {
        let (mut lacking, mut here) = (Vec::new(), Vec::new());
        for one in assumed {
            let is_here = if one.manifest {
                self.store.manifest(&one.digest).await?.is_some()
            } else {
                self.store.blob(&one.digest).await?.is_some()
            };
            if is_here {
                here.push(one.digest);
            } else {
                lacking.push(one.clone());
            }
        }
        self.store.renew(here).await?;
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
}

/// A local image and a mirrored one of the same path: who names no host means one of them.
pub(crate) async fn say_what_shares_a_path(store: &Store, applied: &Applied, progress: &dyn Progress) -> Result<()> {
    let new: BTreeSet<&Repository> =
        applied.replaced.iter().filter(|change| change.old.is_none()).map(|change| &*change.repository).collect();
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
