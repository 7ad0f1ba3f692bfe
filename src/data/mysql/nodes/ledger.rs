//! Settlement that stays on the node in use.

use std::sync::Arc;

use async_trait::async_trait;

use super::Nodes;
use crate::biz::{
    settlement::{
        ledger::{Gather, Ledger, SettledBatch},
        lock::Lock,
        posting::Batch,
    },
    values::error::StoreError,
};

/// The ledger of a store.
/// - It does not wait for a lost node. A transaction on a node that failed ends as one whose connection
///   broke: its outcome is unknown, and the engine settles it again, on the node that is in use then.
/// - After the refusal of a read-only server all pools open new connections.
pub(crate) struct OnNodeInUse {
    pub ledger: Arc<dyn Ledger>,
    pub nodes: Nodes,
}

#[async_trait]
impl Ledger for OnNodeInUse {
    async fn settle(&self, batch: &Batch) -> Result<SettledBatch, StoreError> {
        self.on_node_in_use(self.ledger.settle(batch)).await
    }

    async fn settle_behind(&self, lock: &Lock, gather: &Gather) -> Result<SettledBatch, StoreError> {
        self.on_node_in_use(self.ledger.settle_behind(lock, gather)).await
    }
}

impl OnNodeInUse {
    async fn on_node_in_use(
        &self,
        settling: impl Future<Output = Result<SettledBatch, StoreError>>,
    ) -> Result<SettledBatch, StoreError> {
        let generation = self.nodes.in_use().generation();
        let settled = tokio::select! {
            biased;
            settled = settling => settled,
            lost = self.nodes.lost(generation) => Err(lost),
        };
        settled.inspect_err(|error| self.nodes.renew_if_read_only(generation, error))
    }
}
