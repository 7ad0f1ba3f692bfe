//! A batch of commands, one per cache key. The commands of one server share a round trip.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use redis::{Cmd, Pipeline, RedisError, Value};

use super::{
    link::{Link, Refusal},
    node::Node,
    topology::Topology,
};
use crate::biz::values::{cache_key::CacheKey, error::StoreError};

/// Commands, grouped by the server that owns their keys.
#[derive(Default)]
pub(super) struct CommandBatch {
    groups: Vec<Group>,
    /// Cache keys whose server is unknown.
    unsent: Vec<CacheKey>,
}

struct Group {
    node: Arc<Node>,
    cache_keys: Vec<CacheKey>,
    commands: Pipeline,
}

/// The results of a batch.
#[derive(Default)]
pub(super) struct Answered {
    pub answers: Vec<(CacheKey, Value)>,
    /// Cache keys whose command may not have been executed.
    pub failed: Vec<CacheKey>,
}

impl CommandBatch {
    /// Adds the command of a cache key. `key` is its Redis key.
    pub fn add(&mut self, topology: &Topology, cache_key: CacheKey, key: &str, command: Cmd) {
        let Ok(node) = topology.node_of(key) else {
            self.unsent.push(cache_key);
            return;
        };
        // A linear search, because there are few servers.
        let known = self.groups.iter_mut().find(|group| Arc::ptr_eq(&group.node, &node));
        let group = match known {
            Some(group) => group,
            None => {
                self.groups.push(Group { node, cache_keys: Vec::new(), commands: redis::pipe() });
                let Some(group) = self.groups.last_mut() else { return };
                group
            }
        };
        group.cache_keys.push(cache_key);
        group.commands.add_command(command);
    }

    pub async fn send(self, topology: &Topology, budget: Duration) -> Answered {
        let groups = join_all(self.groups.into_iter().map(|group| group.send(topology, budget))).await;
        let mut all = Answered { answers: Vec::new(), failed: self.unsent };
        for group in groups {
            all.answers.extend(group.answers);
            all.failed.extend(group.failed);
        }
        all
    }
}

impl Group {
    async fn send(self, topology: &Topology, budget: Duration) -> Answered {
        let Ok(link) = self.node.link() else { return Answered { failed: self.cache_keys, ..Answered::default() } };
        let Ok(answers) = self.answers(&link, budget).await else {
            return Answered { failed: self.cache_keys, ..Answered::default() };
        };
        let mut answered = Answered::default();
        for (cache_key, answer) in self.cache_keys.into_iter().zip(answers) {
            match answer {
                Value::ServerError(error) => {
                    if link.refused(&RedisError::from(error)) == Refusal::Moved {
                        topology.has_moved();
                    }
                    answered.failed.push(cache_key);
                }
                answer => answered.answers.push((cache_key, answer)),
            }
        }
        answered
    }

    /// Sends the commands. If the server has lost the scripts, they are loaded and all commands
    /// are sent again; a change that was applied the first time is 'known' the second time.
    async fn answers(&self, link: &Link, budget: Duration) -> Result<Vec<Value>, StoreError> {
        let answers = link.call_all(&self.commands, budget).await?;
        let lacks_script = |answer: &Value| matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT");
        if !answers.iter().any(lacks_script) {
            return Ok(answers);
        }
        link.load_scripts(budget).await.map_err(|(_, error)| error)?;
        link.call_all(&self.commands, budget).await
    }
}
