//! Keeps the record: seals journal entries, stores them beside the journal and advances the head of the log.
//!
//! ```text
//! entries ─► sealed leaves in the Remediation's status (replace) ─► head in the ConfigMap (replace) ─► durable
//! ```
//!
//! A crash between the two is healed before anything new is appended: leaves that the head does not have yet are appended
//! again, in the order of their indices, which is idempotent by leaf hash.

use std::sync::Arc;

use amend_crds::remediation::RecordLeaf;
use amend_crds::{Remediation, RemediationStatus};
use amend_execution::record::{self, About, Envelope, Hash, Head, Key, PublicKey, Statement};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use rand_core::{OsRng, RngCore};
use tokio::sync::Mutex;

use crate::effects::{EffectError, Effects};
use crate::shell::Shell;

/// ConfigMap with the head of the log.
pub const HEAD: &str = "amend-record-head";
/// Secret with the signing key; made once, never changed by us.
pub const KEY: &str = "amend-record-key";
/// Key of the Secret: 32 random bytes in hex.
const SEED: &str = "ed25519-seed";

/// The recorder of this process; cheap to clone.
#[derive(Clone, Debug)]
pub struct Recorder {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    key: Key,
    head: Head,
    /// As stored, with its resourceVersion.
    object: ConfigMap,
    /// A head write failed: leaves may be stored that the head does not have.
    doubtful: bool,
}

/// Why a record is not durable. Without one nothing is done in the world.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("the record was not opened yet")]
    Closed,
    #[error("the record key in Secret {KEY} cannot be read: {why}")]
    Key { why: String },
    #[error("the record head in ConfigMap {HEAD} cannot be read: {why}")]
    Head { why: String },
    #[error("the stored record is damaged: {why}")]
    Damaged { why: String },
    #[error("cannot seal an entry")]
    Seal(#[from] record::RecordError),
    #[error("cannot write the record")]
    Write(#[source] Box<EffectError>),
    #[error("cannot read {what}")]
    Unreadable {
        what: &'static str,
        #[source]
        source: Box<kube::Error>,
    },
}

impl Default for Recorder {
    fn default() -> Self {
        Self { state: Arc::new(Mutex::new(State::default())) }
    }
}

impl Recorder {
    /// Opens the log as its leader: key and head are made at first start, and the epoch is raised, so that a leader before
    /// us can append no more.
    pub async fn open(
        &self,
        client: &kube::Client,
        effects: &Effects,
        namespace: &str,
        install: &str,
    ) -> Result<u64, RecordError> {
        let mut state = self.state.lock().await;
        let key = key(client, effects, namespace, &format!("amend.dev/log/{install}")).await?;
        let (object, head) = match read_head(client, namespace).await? {
            Some(found) => found,
            None => {
                let began = Statement::began(key.public()).seal(&[&key])?;
                let head = Head::new(key.public().origin()).append(0, &[began.leaf_hash()?])?.head;
                let object = head_object(namespace, &head, &key, Some(&began), None)?;
                let created =
                    effects.create_head(&object).await.map_err(|error| RecordError::Write(Box::new(error)))?;
                (created, head)
            }
        };
        if head.origin != key.public().origin() {
            return Err(RecordError::Damaged {
                why: format!("the head is of log {}, the key of {}", head.origin, key.public().origin()),
            });
        }
        let raised = head.raised();
        let object = head_object(namespace, &raised, &key, None, Some(object))?;
        let object = effects.replace_head(&object).await.map_err(|error| RecordError::Write(Box::new(error)))?;
        let mut open = Open { key, head: raised, object, doubtful: true };
        heal(client, effects, &mut open).await?;
        let epoch = open.head.epoch;
        state.open = Some(open);
        Ok(epoch)
    }

    /// The leadership epoch that this process raised; 0 before it opened the log.
    pub async fn epoch(&self) -> u64 {
        self.state.lock().await.open.as_ref().map_or(0, |open| open.head.epoch)
    }

    /// The key that a verifier may trust.
    pub async fn public_key(&self) -> Option<PublicKey> {
        self.state.lock().await.open.as_ref().map(|open| open.key.public().clone())
    }

    /// Entries in the log.
    pub async fn size(&self) -> u64 {
        self.state.lock().await.open.as_ref().map_or(0, |open| open.head.size)
    }

    /// How many leading entries of a journal are durable.
    pub async fn durable(&self, status: &RemediationStatus) -> u32 {
        let state = self.state.lock().await;
        let size = state.open.as_ref().map_or(0, |open| open.head.size);
        let kept = status.record.iter().take_while(|leaf| leaf.index < size).count();
        u32::try_from(kept).unwrap_or(u32::MAX)
    }

    /// Makes the records of all entries up to `through` durable.
    pub async fn append(&self, shell: &Shell, remediation: &Remediation, through: u32) -> Result<(), EffectError> {
        let mut state = self.state.lock().await;
        let open = state.open.as_mut().ok_or(RecordError::Closed)?;
        if open.doubtful {
            heal(&shell.clients.reader(), &shell.effects, open).await?;
        }
        let mut status = remediation.status.clone().unwrap_or_default();
        let sealed = sealed(&open.key, remediation, &status, through)?;
        if sealed.is_empty() {
            return Ok(());
        }
        let hashes = sealed.iter().map(|(_, hash)| *hash).collect::<Vec<_>>();
        let appended = open.head.append(open.head.epoch, &hashes).map_err(RecordError::Seal)?;
        for ((envelope, _), index) in sealed.into_iter().zip(&appended.indices) {
            status.record.push(RecordLeaf { index: *index, envelope });
        }
        let mut changed = remediation.clone();
        changed.status = Some(status);
        shell.effects.write_status(&changed).await?;
        open.doubtful = true;
        advance(&shell.effects, open, appended.head).await?;
        open.doubtful = false;
        shell.metrics.record_entries.set(i64::try_from(open.head.size).unwrap_or(i64::MAX));
        Ok(())
    }
}

/// Envelopes of the entries that have none yet, each with its leaf hash.
fn sealed(
    key: &Key,
    remediation: &Remediation,
    status: &RemediationStatus,
    through: u32,
) -> Result<Vec<(String, Hash)>, RecordError> {
    let about = || About {
        namespace: remediation.namespace().unwrap_or_default(),
        name: remediation.name_any(),
        uid: remediation.uid().unwrap_or_default(),
        plan_digest: remediation.spec.plan_digest.clone(),
    };
    let mut previous = match status.record.last() {
        Some(leaf) => Some(leaf_hash(leaf)?),
        None => None,
    };
    let mut found = Vec::new();
    for entry in status.journal.entries().iter().skip(status.record.len()).filter(|entry| entry.seq <= through) {
        let envelope = Statement::entry(about(), previous, entry.clone()).seal(&[key])?;
        let hash = envelope.leaf_hash()?;
        let text = serde_json::to_string(&envelope).map_err(|error| RecordError::Damaged { why: error.to_string() })?;
        previous = Some(hash);
        found.push((text, hash));
    }
    Ok(found)
}

fn leaf_hash(leaf: &RecordLeaf) -> Result<Hash, RecordError> {
    let envelope: Envelope = serde_json::from_str(&leaf.envelope)
        .map_err(|error| RecordError::Damaged { why: format!("leaf {} cannot be read: {error}", leaf.index) })?;
    Ok(envelope.leaf_hash()?)
}

/// Appends stored leaves that the head does not have yet.
async fn heal(client: &kube::Client, effects: &Effects, open: &mut Open) -> Result<(), RecordError> {
    let namespace = open.object.namespace().unwrap_or_default();
    let (object, head) =
        read_head(client, &namespace).await?.ok_or_else(|| RecordError::Head { why: "it is gone".to_owned() })?;
    if head.epoch != open.head.epoch {
        return Err(RecordError::Seal(record::RecordError::Outranked { head: head.epoch, writer: open.head.epoch }));
    }
    (open.object, open.head) = (object, head);
    let api: Api<Remediation> = Api::all(client.clone());
    let list = api
        .list(&ListParams::default())
        .await
        .map_err(|error| RecordError::Unreadable { what: "remediations", source: Box::new(error) })?;
    let mut missing = Vec::new();
    for leaf in list.items.iter().filter_map(|one| one.status.as_ref()).flat_map(|status| &status.record) {
        if leaf.index >= open.head.size {
            missing.push((leaf.index, leaf_hash(leaf)?));
        }
    }
    missing.sort();
    missing.dedup();
    for (expected, (index, _)) in (open.head.size..).zip(&missing) {
        if *index != expected {
            return Err(RecordError::Damaged { why: format!("leaf {expected} is missing, leaf {index} is there") });
        }
    }
    if !missing.is_empty() {
        let hashes: Vec<Hash> = missing.into_iter().map(|(_, hash)| hash).collect();
        let appended = open.head.append(open.head.epoch, &hashes)?;
        advance(effects, open, appended.head).await?;
    }
    open.doubtful = false;
    Ok(())
}

async fn advance(effects: &Effects, open: &mut Open, head: Head) -> Result<(), RecordError> {
    let namespace = open.object.namespace().unwrap_or_default();
    let object = head_object(&namespace, &head, &open.key, None, Some(open.object.clone()))?;
    open.object = effects.replace_head(&object).await.map_err(|error| RecordError::Write(Box::new(error)))?;
    open.head = head;
    Ok(())
}

async fn key(client: &kube::Client, effects: &Effects, namespace: &str, origin: &str) -> Result<Key, RecordError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let found = api
        .get_opt(KEY)
        .await
        .map_err(|error| RecordError::Unreadable { what: "the record key", source: Box::new(error) })?;
    let secret = match found {
        Some(secret) => secret,
        None => {
            let mut seed = [0_u8; 32];
            OsRng.fill_bytes(&mut seed);
            let mut secret = Secret::default();
            secret.metadata.name = Some(KEY.to_owned());
            secret.metadata.namespace = Some(namespace.to_owned());
            secret.data = Some([(SEED.to_owned(), ByteString(hex::encode(seed).into_bytes()))].into());
            effects.create_secret(&secret).await.map_err(|error| RecordError::Write(Box::new(error)))?
        }
    };
    let malformed = |why: &str| RecordError::Key { why: why.to_owned() };
    let text =
        secret.data.as_ref().and_then(|data| data.get(SEED)).ok_or_else(|| malformed("it has no ed25519-seed"))?;
    let bytes = hex::decode(&text.0).map_err(|_| malformed("ed25519-seed is not hexadecimal"))?;
    let seed: [u8; 32] = bytes.try_into().map_err(|_| malformed("ed25519-seed is not 32 bytes long"))?;
    Ok(Key::from_seed(origin, &seed)?)
}

async fn read_head(client: &kube::Client, namespace: &str) -> Result<Option<(ConfigMap, Head)>, RecordError> {
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = api
        .get_opt(HEAD)
        .await
        .map_err(|error| RecordError::Unreadable { what: "the record head", source: Box::new(error) })?;
    let Some(object) = found else { return Ok(None) };
    let text = object
        .data
        .as_ref()
        .and_then(|data| data.get("head"))
        .ok_or_else(|| RecordError::Head { why: "it has no key `head`".to_owned() })?;
    let head: Head = serde_json::from_str(text).map_err(|error| RecordError::Head { why: error.to_string() })?;
    head.check()?;
    Ok(Some((object, head)))
}

fn head_object(
    namespace: &str,
    head: &Head,
    key: &Key,
    began: Option<&Envelope>,
    stored: Option<ConfigMap>,
) -> Result<ConfigMap, RecordError> {
    let json =
        |value: Result<String, serde_json::Error>| value.map_err(|error| RecordError::Head { why: error.to_string() });
    let mut object = stored.unwrap_or_default();
    object.metadata.name = Some(HEAD.to_owned());
    object.metadata.namespace = Some(namespace.to_owned());
    let data = object.data.get_or_insert_default();
    data.insert("head".to_owned(), json(serde_json::to_string(head))?);
    data.insert("checkpoint".to_owned(), head.signed(key));
    data.insert("key".to_owned(), key.public().to_string());
    if let Some(began) = began {
        data.insert("began".to_owned(), json(serde_json::to_string(began))?);
    }
    Ok(object)
}
