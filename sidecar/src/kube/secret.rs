//! One Secret, watched: read through the API, and told whenever it is another.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use k8s_openapi::{ByteString, NamespaceResourceScope, api::core::v1 as core};
use kube::{
    Api, Client, Resource,
    api::ObjectMeta,
    runtime::watcher::{Event, watcher},
};
use secrecy::zeroize::Zeroizing;
use serde::Deserialize;

use super::{Fault, PollPolicy, follow, line};

/// Which Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SecretId {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

/// A Secret's keys and what they hold.
pub(crate) type Data = BTreeMap<String, Zeroizing<Vec<u8>>>;

/// Tells of the Secret, for as long as it is polled: its data when it is known, or has changed, or may
/// have; `None` when there is no such Secret; and what keeps us from knowing.
pub(crate) async fn watch(
    client: Client,
    id: SecretId,
    poll_policy: PollPolicy,
    heard: impl Fn() + Clone + Send + Sync + 'static,
    mut tell: impl FnMut(Result<Option<Data>, Fault>),
) {
    let client = line::open(client, poll_policy, heard);
    let api: Api<Secret> = Api::namespaced(client, &id.namespace);
    // By name: a Role that names the Secret is then enough.
    let config = follow::config(Some(&format!("metadata.name={}", id.name)), &poll_policy);
    let mut listed = None;
    let begin = || watcher(api.clone(), config.clone());
    follow::follow(poll_policy, begin, |event| match event {
        Ok(Event::Init) => listed = None,
        Ok(Event::InitApply(secret)) => listed = Some(secret),
        Ok(Event::InitDone) => tell(Ok(listed.take().map(Secret::into_data))),
        Ok(Event::Apply(secret)) => tell(Ok(Some(secret.into_data()))),
        Ok(Event::Delete(_)) => tell(Ok(None)),
        Err(fault) => tell(Err(fault)),
    })
    .await;
}

/// A Secret as the API sends it, as far as it is of use. Never shown: its annotations, too, may hold
/// what `kubectl apply` was given.
#[derive(Clone, Deserialize)]
struct Secret {
    metadata: ObjectMeta,
    data: Option<BTreeMap<String, ByteString>>,
}

impl Secret {
    fn into_data(self) -> Data {
        let data = self.data.unwrap_or_default();
        data.into_iter()
            .map(|(key, bytes)| (key, Zeroizing::new(bytes.0)))
            .collect()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Secret")
    }
}

impl Resource for Secret {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        core::Secret::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        core::Secret::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        core::Secret::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        core::Secret::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
