//! Finds the server of a key: the only server, the master that the sentinels name, or the cluster
//! node that owns the slot of the key.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use redis::Value;
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    RedisLayout, RedisSettings,
    keys::{self, Keys},
    node::{Location, Node, Role, open, text, unavailable},
};
use crate::biz::values::error::StoreError;

/// Interval at which a cluster is asked for its slots. It is asked at once when a key has moved.
const REFRESH: Duration = Duration::from_secs(1);

pub(super) enum Topology {
    One(Arc<Node>),
    Cluster(Arc<Cluster>),
}

/// The masters of a cluster.
pub(super) struct Cluster {
    settings: Arc<RedisSettings>,
    map: RwLock<Arc<Map>>,
    moved: Notify,
    cold: Arc<Notify>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Map {
    /// First slot, last slot, and their node.
    ranges: Vec<(u16, u16, Arc<Node>)>,
    nodes: HashMap<String, Arc<Node>>,
}

impl Topology {
    pub fn start(settings: Arc<RedisSettings>, cold: Arc<Notify>, stop: CancellationToken) -> Self {
        let one = |location| {
            let marker = Keys::of(settings.database).marker(|_| true).unwrap_or_default();
            let role = Role { marker, takes_over: false, cold: cold.clone() };
            Topology::One(Node::start(location, settings.clone(), role, stop.child_token()))
        };
        match &settings.layout {
            RedisLayout::Single => one(Location::Fixed(settings.addrs.first().cloned().unwrap_or_default())),
            RedisLayout::Sentinel { master } => {
                one(Location::Sentinel { sentinels: settings.addrs.clone(), master: master.clone() })
            }
            RedisLayout::Cluster => {
                let (map, moved) = Default::default();
                let cluster = Arc::new(Cluster { settings: settings.clone(), map, moved, cold, stop });
                tokio::spawn({
                    let cluster = cluster.clone();
                    async move { cluster.stop.clone().run_until_cancelled(cluster.keep_current()).await }
                });
                Topology::Cluster(cluster)
            }
        }
    }

    /// The node of a key.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no known node has its slot.
    pub fn node_of(&self, key: &str) -> Result<Arc<Node>, StoreError> {
        match self {
            Self::One(node) => Ok(node.clone()),
            Self::Cluster(cluster) => {
                let (map, slot) = (cluster.map(), keys::slot(key));
                let owner = map.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot));
                owner.map(|(.., node)| node.clone()).ok_or_else(|| unavailable("no redis node has the slot"))
            }
        }
    }

    /// All nodes with slots, in a fixed order; empty until the cluster has answered once.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        match self {
            Self::One(node) => vec![node.clone()],
            Self::Cluster(cluster) => {
                let map = cluster.map();
                let mut nodes: Vec<_> = map.nodes.iter().collect();
                nodes.sort_by_key(|(address, _)| *address);
                nodes.into_iter().map(|(_, node)| node.clone()).collect()
            }
        }
    }

    /// Asks for the slots again, because a key was on another node.
    pub fn has_moved(&self) {
        if let Self::Cluster(cluster) = self {
            cluster.moved.notify_one();
        }
    }
}

impl Cluster {
    fn map(&self) -> Arc<Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn keep_current(&self) {
        let mut was_answered = true;
        loop {
            match self.ask().await {
                Ok(ranges) => {
                    self.renew(&ranges);
                    was_answered = true;
                }
                Err(error) if was_answered => {
                    tracing::warn!(%error, "redis cluster slots unknown; retrying");
                    was_answered = false;
                }
                Err(_) => {}
            }
            // At most this often, because a slot may take a while to move.
            tokio::time::sleep(REFRESH / 10).await;
            tokio::select! {
                () = self.moved.notified() => {}
                () = tokio::time::sleep(REFRESH) => {}
            }
        }
    }

    /// Slots and the addresses of their masters, from the first node that answers.
    async fn ask(&self) -> Result<Vec<(u16, u16, String)>, StoreError> {
        let known: Vec<String> = self.map().nodes.keys().cloned().collect();
        for address in known.iter().chain(&self.settings.addrs) {
            let asked = timeout(self.settings.write_timeout, async {
                let mut connection = open(address, &self.settings, true).await.ok()?;
                let slots = redis::cmd("CLUSTER").arg("SLOTS").to_owned();
                connection.send_packed_command(&slots).await.ok()
            });
            let host = address.rsplit_once(':').map_or("", |(host, _)| host);
            if let Ok(Some(answer)) = asked.await
                && let Some(ranges) = slots(&answer, host)
                && !ranges.is_empty()
            {
                return Ok(ranges);
            }
        }
        Err(unavailable("no node of the redis cluster answers"))
    }

    fn renew(&self, ranges: &[(u16, u16, String)]) {
        let old = self.map();
        let known = old.ranges.iter().map(|(first, last, node)| (*first, *last, node.address()));
        if known.eq(ranges.iter().map(|(first, last, address)| (*first, *last, address.as_str()))) {
            return;
        }
        let (keys, mut nodes) = (Keys::of(self.settings.database), HashMap::<String, Arc<Node>>::new());
        for (_, _, address) in ranges {
            if nodes.contains_key(address) {
                continue;
            }
            let owns = |slot| ranges.iter().any(|(first, last, of)| of == address && (*first..=*last).contains(&slot));
            let Some(marker) = keys.marker(owns) else { continue };
            let node = match old.nodes.get(address) {
                Some(node) => {
                    node.set_marker(marker);
                    node.clone()
                }
                None => {
                    let takes_over = !old.nodes.is_empty();
                    let role = Role { marker, takes_over, cold: self.cold.clone() };
                    let location = Location::Fixed(address.clone());
                    Node::start(location, self.settings.clone(), role, self.stop.child_token())
                }
            };
            nodes.insert(address.clone(), node);
        }
        for (address, node) in &old.nodes {
            if !nodes.contains_key(address) {
                node.stop();
            }
        }
        let of = |(first, last, address): &(u16, u16, String)| Some((*first, *last, nodes.get(address)?.clone()));
        let ranges = ranges.iter().filter_map(of).collect();
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Map { ranges, nodes });
    }
}

/// Parses the reply to CLUSTER SLOTS. A master without a host is the node that was asked.
fn slots(answer: &Value, asked: &str) -> Option<Vec<(u16, u16, String)>> {
    let Value::Array(ranges) = answer else { return None };
    let range = |range: &Value| {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &range[..] else { return None };
        let [host, Value::Int(port), ..] = &master[..] else { return None };
        let host = text(host).filter(|host| !host.is_empty()).unwrap_or_else(|| asked.to_owned());
        Some((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, format!("{host}:{port}")))
    };
    ranges.iter().map(range).collect()
}
