//! The meta state as records. Keys: `c` the cluster, `n` member, `p` placement, `f` route, `g` member of a shared
//! subscription.

use bytestring::ByteString;
use cluster_proto::{Member, MetaRecord, PlacementRecord, RouteRecord, ShareMemberRecord};
use mqtt_topic::TopicFilter;
use prost::Message;

use super::MetaState;
use super::routes::Destinations;
use super::shares::{Key, Known};
use crate::encoding::{Change, Changes, RestoreError, decode, fault, name_of, named};
use crate::placement::Fnv;

const CLUSTER: u8 = b'c';
const MEMBER: u8 = b'n';
const PLACEMENT: u8 = b'p';
const ROUTE: u8 = b'f';
const SHARE: u8 = b'g';

impl MetaState {
    /// The records that changed since the last call, each key once.
    pub fn take_dirty(&mut self) -> Vec<Change> {
        let mut changes = Changes::new();
        let dirty = std::mem::take(&mut self.dirty);
        if dirty.cluster {
            changes.insert(vec![CLUSTER], Some(self.encode_cluster()));
        }
        for node in dirty.members {
            changes.insert(
                member_key(node),
                self.members.get(&node).map(Message::encode_to_vec),
            );
        }
        for shard in dirty.shards {
            changes.insert(
                placement_key(shard),
                self.placement_record(shard).map(|record| record.encode_to_vec()),
            );
        }
        for filter in std::mem::take(&mut self.routes.changed) {
            let value = self.routes.get(&filter).map(encode_route);
            changes.insert(named(ROUTE, filter.as_str()), value);
        }
        for key in self.shares.take_changed() {
            let value = self.shares.get(&key).map(|known| known.encode().encode_to_vec());
            changes.insert(share_key(&key), value);
        }
        changes.into_iter().collect()
    }

    /// All records.
    pub fn records(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut records = vec![(vec![CLUSTER], self.encode_cluster())];
        records.extend(
            self.members
                .values()
                .map(|member| (member_key(member.node), member.encode_to_vec())),
        );
        records.extend(self.placement.keys().filter_map(|shard| {
            let record = self.placement_record(*shard)?;
            Some((placement_key(*shard), record.encode_to_vec()))
        }));
        records.extend(
            self.routes
                .iter()
                .map(|(filter, places)| (named(ROUTE, &filter), encode_route(places))),
        );
        records.extend(
            self.shares
                .iter()
                .map(|(key, known)| (share_key(key), known.encode().encode_to_vec())),
        );
        records.sort();
        records
    }

    /// A number that is the same for the same state.
    pub fn digest(&self) -> u64 {
        let mut digest = Fnv::default();
        for (key, value) in self.records() {
            for part in [key, value] {
                digest.update(&(part.len() as u64).to_le_bytes());
                digest.update(&part);
            }
        }
        digest.finish()
    }

    /// The state that records describe, in whatever order they come.
    ///
    /// # Errors
    /// A record is not one of the meta state.
    pub fn restore<K, V>(records: impl IntoIterator<Item = (K, V)>) -> Result<Self, RestoreError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let mut state = Self::new();
        let mut generation = 0;
        for (key, value) in records {
            let (key, value) = (key.as_ref(), value.as_ref());
            match key.first() {
                Some(&CLUSTER) => generation = state.restore_cluster(key, value)?,
                Some(&MEMBER) => {
                    let member: Member = decode(key, value)?;
                    state.members.insert(member.node, member);
                }
                Some(&PLACEMENT) => state.restore_placement(key, value)?,
                Some(&ROUTE) => state.restore_route(key, value)?,
                Some(&SHARE) => state.restore_share(key, value)?,
                _ => return Err(fault(key, "the key begins with no known letter")),
            }
        }
        state.routes.changed.clear();
        state.routes.restore_generation(generation);
        Ok(state)
    }

    fn encode_cluster(&self) -> Vec<u8> {
        MetaRecord {
            cluster_id: self.cluster_id.clone(),
            shards: self.shards.into(),
            retired: self.retired.iter().copied().collect(),
            routes_generation: self.routes.generation(),
        }
        .encode_to_vec()
    }

    fn restore_cluster(&mut self, key: &[u8], value: &[u8]) -> Result<u64, RestoreError> {
        let record: MetaRecord = decode(key, value)?;
        self.cluster_id = record.cluster_id;
        self.shards = u16::try_from(record.shards).map_err(|_| fault(key, "too many shards"))?;
        self.retired = record.retired.into_iter().collect();
        Ok(record.routes_generation)
    }

    fn restore_placement(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let shard = key
            .get(1..)
            .and_then(|rest| rest.try_into().ok())
            .map(u16::from_be_bytes);
        let shard = shard.ok_or_else(|| fault(key, "the key does not end with a shard"))?;
        let record: PlacementRecord = decode(key, value)?;
        // Absent in records of the first version: it has not changed since.
        let initial = match record.initial.is_empty() {
            true => record.nodes.clone(),
            false => record.initial,
        };
        self.initial.insert(shard, initial);
        self.placement.insert(shard, record.nodes);
        Ok(())
    }

    fn restore_route(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let filter = TopicFilter::parse(ByteString::from(name_of(key)?));
        let filter = filter.map_err(|_| fault(key, "not a topic filter"))?;
        let record: RouteRecord = decode(key, value)?;
        for node in record.nodes {
            let qos_0_only = record.qos_0_nodes.contains(&node);
            self.routes.add_node(&filter, node, qos_0_only);
        }
        // The first version had none.
        let versions = record.shard_versions.into_iter().chain(std::iter::repeat(0));
        for (shard, version) in record.shards.into_iter().zip(versions) {
            let shard = u16::try_from(shard).map_err(|_| fault(key, "no such shard"))?;
            self.routes.add_shard(&filter, shard, version);
        }
        Ok(())
    }

    fn restore_share(&mut self, key: &[u8], value: &[u8]) -> Result<(), RestoreError> {
        let (filter, client) = name_of(key)?
            .split_once('\0')
            .ok_or_else(|| fault(key, "the key has no client"))?;
        let record: ShareMemberRecord = decode(key, value)?;
        let member = record.member.ok_or_else(|| fault(key, "no member"))?;
        let known = Known {
            member,
            version: record.version,
        };
        self.shares.restore((filter.to_owned(), client.to_owned()), known);
        Ok(())
    }
}

fn member_key(node: u64) -> Vec<u8> {
    let mut key = vec![MEMBER];
    key.extend_from_slice(&node.to_be_bytes());
    key
}

fn placement_key(shard: u16) -> Vec<u8> {
    let mut key = vec![PLACEMENT];
    key.extend_from_slice(&shard.to_be_bytes());
    key
}

/// A topic filter has no U+0000. [MQTT-4.7.3-2]
fn share_key((filter, client): &Key) -> Vec<u8> {
    let mut key = named(SHARE, filter);
    key.push(0);
    key.extend_from_slice(client.as_bytes());
    key
}

fn encode_route(destinations: &Destinations) -> Vec<u8> {
    let mut record = RouteRecord::default();
    for (node, qos_0_only) in destinations.nodes() {
        record.nodes.push(*node);
        if *qos_0_only {
            record.qos_0_nodes.push(*node);
        }
    }
    for (shard, version) in destinations.shards() {
        record.shards.push((*shard).into());
        record.shard_versions.push(*version);
    }
    record.encode_to_vec()
}
