//! What goes: everything that a selection needs, whole, but for what the other side has.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use artifact::{Digest, Entry, Kind, Manifest, Repository, Selection, Wanted};
use store::{Check, Store};

use crate::document::{Assumed, Member, TreeHead};
use crate::plan::{Item, Source};
use crate::receipt::Inventory;
use crate::tree::{Tree, TreeManifest};
use crate::{Error, Result, WantList};

/// Images may need each other's manifests so deep.
const DEPTH: usize = 32;

/// What need not be carried.
pub(super) enum Leave {
    Nothing,
    /// What the sites have.
    These(Inventory),
    /// What a site did not ask for.
    AllBut(WantList),
}

impl Leave {
    fn out(&self, digest: &Digest) -> bool {
        match self {
            Self::Nothing => false,
            Self::These(inventory) => inventory.has(digest),
            Self::AllBut(want) => !want.things.contains_key(digest),
        }
    }
}

/// Everything that a selection needs, whole.
pub(super) struct Gathered {
    pub(super) trees: Vec<Tree>,
    pub(super) tree_heads: Vec<TreeHead>,
    pub(super) documents: Vec<Item>,
    pub(super) blobs: Vec<Item>,
    pub(super) assumes: Vec<Assumed>,
}

pub(super) async fn gather(store: &Store, selection: &Selection, leave: &Leave) -> Result<Gathered> {
    let wanted = match (leave, selection) {
        (Leave::AllBut(want), _) => {
            let names = want.names();
            let mut all = everything(store, |_| true).await?;
            all.retain(|wanted| names.contains(&*shown(wanted)));
            Cow::Owned(all)
        }
        (_, Selection::These(wanted)) => Cow::Borrowed(wanted.as_slice()),
        (_, Selection::All) => Cow::Owned(everything(store, |_| true).await?),
        (_, Selection::Gathered) => Cow::Owned(everything(store, Entry::is_gathered).await?),
    };
    let mut gathering = Gathering {
        store,
        leave,
        assumes: BTreeMap::new(),
        missing: Vec::new(),
        trees: BTreeMap::new(),
        blobs: Vec::new(),
        seen: HashSet::new(),
        manifests: HashMap::new(),
    };
    for wanted in wanted.iter() {
        gathering.want(wanted).await?;
    }
    drop(wanted);
    let Gathering { mut missing, trees, blobs, manifests, assumes, .. } = gathering;
    if let Leave::AllBut(want) = leave {
        let carried: HashSet<Digest> = blobs.iter().map(|item| item.member.sha256).collect();
        let unmet =
            want.things.iter().filter(|(digest, _)| !carried.contains(digest) && !manifests.contains_key(digest));
        missing.extend(unmet.map(|(digest, wanting)| match wanting.names.first() {
            Some(name) => format!("{digest}, wanted for {name}, is no longer part of it here, or not here"),
            None => format!("{digest} is part of nothing that the list names"),
        }));
    }
    if !missing.is_empty() {
        return Err(Error::NotThere { missing });
    }
    let trees: Vec<Tree> = trees.into_values().collect();
    let document = |kind: &str, digest: &Digest, bytes: bytes::Bytes| {
        let name = format!("{kind}/{}/{}", digest.algorithm().as_str(), digest.hex());
        let member = Member { name, size: bytes.len() as u64, offset: 0, sha256: Digest::of(&bytes), part: None };
        Item { member, source: Source::Bytes(bytes) }
    };
    let mut documents = Vec::new();
    let mut tree_heads = Vec::new();
    for tree in &trees {
        let bytes: bytes::Bytes = tree.to_bytes().into();
        let head = tree.head(&bytes);
        documents.push(document("trees", &head.digest, bytes));
        tree_heads.push(head);
    }
    let mut sorted: Vec<_> = manifests.into_iter().collect();
    sorted.sort_by_key(|(digest, _)| *digest);
    documents.extend(sorted.into_iter().map(|(digest, bytes)| document("manifests", &digest, bytes)));
    Ok(Gathered { trees, tree_heads, documents, blobs, assumes: assumes.into_values().collect() })
}

/// Every entry of the store that is meant.
async fn everything(store: &Store, is_meant: impl Fn(&Entry) -> bool) -> Result<Vec<Wanted>> {
    let (mut wanted, mut after) = (Vec::new(), None);
    loop {
        let page = store.repositories(None, after.as_ref(), 1000).await?;
        let Some(last) = page.last() else { return Ok(wanted) };
        after = Some(last.clone());
        for repository in page {
            let mut name = String::new();
            loop {
                let entries = store.entries(&repository, &name, 1000).await?;
                let Some(last) = entries.last() else { break };
                name.clone_from(&last.name);
                wanted.extend(entries.into_iter().filter(|entry| is_meant(entry)).map(|entry| Wanted {
                    repository: repository.clone(),
                    entry,
                    manifests: None,
                }));
            }
        }
    }
}

/// A wished-for entry as people write it.
fn shown(Wanted { repository, entry, .. }: &Wanted) -> String {
    let name = &entry.name;
    match repository.kind {
        Kind::Image if name.contains(':') => format!("{repository}@{name}"),
        Kind::Image => format!("{repository}:{name}"),
        _ => format!("{repository}/{name}"),
    }
}

struct Gathering<'a> {
    store: &'a Store,
    leave: &'a Leave,
    assumes: BTreeMap<Digest, Assumed>,
    missing: Vec<String>,
    trees: BTreeMap<Repository, Tree>,
    blobs: Vec<Item>,
    seen: HashSet<Digest>,
    manifests: HashMap<Digest, bytes::Bytes>,
}

impl Gathering<'_> {
    async fn want(&mut self, wanted: &Wanted) -> Result<()> {
        let Wanted { repository, entry, manifests } = wanted;
        let (shown, digest) = (shown(wanted), &entry.digest);
        match self.store.entry(repository, &entry.name).await? {
            Some(there) if there.digest == *digest => {}
            Some(there) => {
                self.missing.push(format!("{shown} is {} here, not {digest}", there.digest));
                return Ok(());
            }
            None => {
                self.missing.push(format!("{shown} is not here"));
                return Ok(());
            }
        }
        let tree = self.trees.entry(repository.clone()).or_insert_with(|| Tree::new(repository.clone()));
        tree.entries.insert(entry.name.clone(), entry.clone());
        match repository.kind {
            Kind::Image => self.image(repository, digest, manifests.as_deref(), &shown).await,
            _ => self.blob(digest, &shown).await,
        }
    }

    /// Gathers a manifest and what is below it: of the chosen manifests, or of everything that is carried here.
    async fn image(
        &mut self,
        repository: &Repository,
        root: &Digest,
        chosen: Option<&[Digest]>,
        shown: &str,
    ) -> Result<()> {
        let mut open: Vec<(Digest, usize)> = vec![(*root, 0)];
        // In the order in which they were given: another order would be another bundle.
        open.extend(chosen.into_iter().flatten().map(|digest| (*digest, 1)));
        let chosen: Option<HashSet<Digest>> = chosen.map(|digests| digests.iter().copied().collect());
        let mut visited = HashSet::new();
        while let Some((digest, depth)) = open.pop() {
            if depth > DEPTH {
                self.missing.push(format!("{shown} nests deeper than {DEPTH} indexes"));
                continue;
            }
            if !visited.insert(digest) {
                continue;
            }
            let Some(manifest) = self.store.granted_manifest(repository, &digest).await? else {
                self.missing.push(format!("{shown} needs the manifest {digest}"));
                continue;
            };
            let mut check = Check::by_digest(digest);
            check.update(&manifest.bytes);
            if !check.is_right() {
                return Err(Error::StoreDamaged { digest });
            }
            let (mut omitted, mut blobs) = (BTreeSet::new(), Vec::new());
            for link in self.store.links(&digest).await? {
                let is_wanted = link.carried
                    && match (&chosen, link.is_manifest) {
                        // Links are the store's, grants a repository's: another may carry more platforms of this index,
                        // or more layers of an image.
                        (_, false) => self.store.granted_blob(repository, &link.child).await?.is_some(),
                        (Some(chosen), true) => chosen.contains(&link.child),
                        (None, true) => self.store.granted_manifest(repository, &link.child).await?.is_some(),
                    };
                if !is_wanted {
                    omitted.insert(link.child);
                } else if link.is_manifest {
                    open.push((link.child, depth + 1));
                } else {
                    self.blob(&link.child, shown).await?;
                    blobs.push(link.child);
                }
            }
            if chosen.is_none() {
                let referrers = self.store.referrers(repository, &digest).await?;
                open.extend(referrers.into_iter().map(|referrer| (referrer.digest, depth + 1)));
            }
            let size = manifest.bytes.len() as u64;
            let subject = Manifest::parse(&manifest.bytes, &manifest.media_type).ok().and_then(|read| read.subject);
            if self.leave.out(&digest) {
                self.assumes.insert(digest, Assumed { digest, size, manifest: true });
            } else {
                self.manifests.insert(digest, manifest.bytes);
            }
            let tree = self.trees.entry(repository.clone()).or_insert_with(|| Tree::new(repository.clone()));
            // Two entries may want different platforms of one index: what either wants is carried.
            let known = tree.manifests.entry(digest).or_insert_with(|| TreeManifest {
                digest,
                size,
                media_type: manifest.media_type,
                subject: subject.map(|subject| subject.digest),
                omitted: omitted.clone(),
            });
            tree.blobs.extend(blobs);
            known.omitted.retain(|child| omitted.contains(child));
        }
        Ok(())
    }

    async fn blob(&mut self, digest: &Digest, shown: &str) -> Result<()> {
        if !self.seen.insert(*digest) {
            return Ok(());
        }
        let Some(blob) = self.store.blob(digest).await? else {
            self.missing.push(format!("{shown} needs {digest}"));
            return Ok(());
        };
        if self.leave.out(digest) {
            self.assumes.insert(*digest, Assumed { digest: *digest, size: blob.size, manifest: false });
            return Ok(());
        }
        let name = format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex());
        let member = Member { name, size: blob.size, offset: 0, sha256: *digest, part: None };
        self.blobs.push(Item { member, source: Source::Blob(blob, 0) });
        Ok(())
    }
}
