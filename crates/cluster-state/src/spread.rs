//! Where the replicas of the shards go: evenly over the nodes and over their zones, with as few moves as possible.

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::Member;

/// The nodes of each shard, the one that is to lead first. `placed` is how it is now, `usable` are the nodes that may have
/// replicas, `factor` is how many a shard has where there are as many nodes. Without usable nodes all stays as it is.
pub fn spread(placed: &[Vec<u64>], usable: &[Member], factor: usize) -> Vec<Vec<u64>> {
    let zones: BTreeMap<u64, &str> = usable
        .iter()
        .map(|member| (member.node, member.zone.as_str()))
        .collect();
    let count = factor.min(zones.len());
    if count == 0 {
        return placed.to_vec();
    }
    let mut plan = Plan {
        shards: placed.iter().map(|nodes| keep(nodes, &zones, count)).collect(),
        zones,
    };
    for shard in 0..plan.shards.len() {
        while plan.shards[shard].len() < count {
            let node = plan.best_for(shard);
            plan.shards[shard].push(node);
        }
    }
    plan.level_replicas();
    plan.level_leaders();
    plan.shards
}

fn keep(nodes: &[u64], zones: &BTreeMap<u64, &str>, count: usize) -> Vec<u64> {
    let usable = nodes.iter().filter(|node| zones.contains_key(node));
    usable.copied().take(count).collect()
}

struct Plan<'a> {
    shards: Vec<Vec<u64>>,
    zones: BTreeMap<u64, &'a str>,
}

impl Plan<'_> {
    fn counts(&self, of: impl Fn(&Vec<u64>) -> Vec<u64>) -> BTreeMap<u64, usize> {
        let mut counts: BTreeMap<u64, usize> = self.zones.keys().map(|node| (*node, 0)).collect();
        for node in self.shards.iter().flat_map(of) {
            *counts.entry(node).or_default() += 1;
        }
        counts
    }

    fn replicas(&self) -> BTreeMap<u64, usize> {
        self.counts(Vec::clone)
    }

    /// How many replicas of a shard stand in a node's zone already; nodes without a zone are a zone each.
    fn neighbours(&self, shard: usize, node: u64) -> usize {
        let zone = self.zones[&node];
        let others = self.shards[shard].iter().filter(|other| **other != node);
        match zone.is_empty() {
            true => 0,
            false => others
                .filter(|other| self.zones.get(other) == Some(&zone))
                .count(),
        }
    }

    /// The node for one more replica. There is one: a shard has no more replicas than there are nodes.
    fn best_for(&self, shard: usize) -> u64 {
        let counts = self.replicas();
        let free = counts
            .iter()
            .filter(|(node, _)| !self.shards[shard].contains(node));
        free.map(|(node, count)| (self.neighbours(shard, *node), *count, *node))
            .min()
            .map_or(0, |(.., node)| node)
    }

    /// Moves replicas from the fullest node to the emptiest as long as that levels them.
    fn level_replicas(&mut self) {
        loop {
            let counts = self.replicas();
            let Some((full, empty)) = ends(&counts) else {
                return;
            };
            let movable = self.shards.iter().enumerate().filter(|(shard, nodes)| {
                let crowded = self.neighbours(*shard, full);
                nodes.contains(&full) && !nodes.contains(&empty) && self.neighbours(*shard, empty) <= crowded
            });
            // Rather one that does not lead there.
            let chosen = movable
                .map(|(shard, nodes)| (nodes.first() == Some(&full), shard))
                .min();
            let Some((_, shard)) = chosen else { return };
            for node in &mut self.shards[shard] {
                if *node == full {
                    *node = empty;
                }
            }
        }
    }

    /// Moves the first places from nodes that lead most to ones that lead least, by way of others where need be, as long as
    /// that levels them.
    fn level_leaders(&mut self) {
        loop {
            let counts = self.counts(|nodes| nodes.first().copied().into_iter().collect());
            let most = counts.values().max().copied().unwrap_or(0);
            let leading = counts.iter().filter(|(_, count)| **count == most);
            let paths = leading.filter_map(|(node, _)| self.path_down(*node, &counts));
            let Some(path) = paths.min_by_key(Vec::len) else {
                return;
            };
            for (shard, place) in path {
                self.shards[shard].swap(0, place);
            }
        }
    }

    /// The shards whose first places to move, each to the named place, so that `from` leads one less and a node that leads
    /// at least two less than it leads one more.
    fn path_down(&self, from: u64, counts: &BTreeMap<u64, usize>) -> Option<Vec<(usize, usize)>> {
        let mut reached: BTreeMap<u64, Option<(u64, usize, usize)>> = BTreeMap::from([(from, None)]);
        let mut next = std::collections::VecDeque::from([from]);
        while let Some(node) = next.pop_front() {
            if counts[&node] + 2 <= counts[&from] {
                let mut path = Vec::new();
                let mut at = node;
                while let Some((before, shard, place)) = reached[&at] {
                    path.push((shard, place));
                    at = before;
                }
                return Some(path);
            }
            for (shard, nodes) in self.shards.iter().enumerate() {
                if nodes.first() != Some(&node) {
                    continue;
                }
                for (place, other) in nodes.iter().enumerate().skip(1) {
                    if !reached.contains_key(other) {
                        reached.insert(*other, Some((node, shard, place)));
                        next.push_back(*other);
                    }
                }
            }
        }
        None
    }
}

/// The fullest and the emptiest node, if there are two between which something can be levelled.
fn ends(counts: &BTreeMap<u64, usize>) -> Option<(u64, u64)> {
    let full = counts.iter().max_by_key(|(node, count)| (**count, **node))?;
    let empty = counts.iter().min_by_key(|(node, count)| (**count, **node))?;
    (*full.1 >= empty.1 + 2).then_some((*full.0, *empty.0))
}

/// How many replicas would have to be copied to come from one plan to another.
pub fn copies(from: &[Vec<u64>], to: &[Vec<u64>]) -> usize {
    let pairs = from.iter().zip(to);
    pairs
        .map(|(before, after)| {
            let before: BTreeSet<_> = before.iter().collect();
            after.iter().filter(|node| !before.contains(node)).count()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(zones: &[(u64, &str)]) -> Vec<Member> {
        let member = |(node, zone): &(u64, &str)| Member {
            node: *node,
            zone: (*zone).to_owned(),
            ..Member::default()
        };
        zones.iter().map(member).collect()
    }

    fn plain(ids: std::ops::RangeInclusive<u64>) -> Vec<Member> {
        nodes(&ids.map(|id| (id, "")).collect::<Vec<_>>())
    }

    fn extremes(plan: &[Vec<u64>], of: impl Fn(&Vec<u64>) -> Vec<u64>) -> (usize, usize) {
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for node in plan.iter().flatten() {
            counts.entry(*node).or_default();
        }
        for node in plan.iter().flat_map(of) {
            *counts.entry(node).or_default() += 1;
        }
        (*counts.values().min().unwrap(), *counts.values().max().unwrap())
    }

    fn leaders(plan: &[Vec<u64>]) -> (usize, usize) {
        extremes(plan, |nodes| nodes[..1].to_vec())
    }

    #[test]
    fn three_nodes_have_everything_and_lead_a_third_each() {
        let plan = spread(&vec![Vec::new(); 16], &plain(1..=3), 3);

        assert!(plan.iter().all(|nodes| nodes.len() == 3));
        assert_eq!(leaders(&plan), (5, 6));
    }

    #[test]
    fn a_single_node_grows_into_three_without_moving_what_it_has() {
        let one = spread(&vec![Vec::new(); 16], &plain(1..=1), 3);
        let three = spread(&one, &plain(1..=3), 3);

        assert!(one.iter().all(|nodes| *nodes == [1]));
        assert!(three.iter().all(|nodes| nodes.contains(&1) && nodes.len() == 3));
        assert_eq!(leaders(&three), (5, 6));
    }

    #[test]
    fn a_fourth_and_a_fifth_node_take_over_their_part_and_no_more() {
        let three = spread(&vec![Vec::new(); 16], &plain(1..=3), 3);
        let five = spread(&three, &plain(1..=5), 3);

        assert_eq!(extremes(&five, Clone::clone), (9, 10));
        assert!((18..=20).contains(&copies(&three, &five)), "{five:?}");
        let (least, most) = leaders(&five);
        assert!(most - least <= 1, "{five:?}");
    }

    #[test]
    fn what_a_node_had_goes_to_the_others_when_it_leaves() {
        let five = spread(&vec![Vec::new(); 16], &plain(1..=5), 3);
        let four = spread(&five, &plain(1..=4), 3);

        assert!(four.iter().all(|nodes| nodes.len() == 3 && !nodes.contains(&5)));
        assert_eq!(extremes(&four, Clone::clone), (12, 12));
    }

    #[test]
    fn replicas_of_a_shard_stand_in_different_zones_where_there_are_enough() {
        let zones = nodes(&[(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "c"), (6, "c")]);
        let plan = spread(&vec![Vec::new(); 16], &zones, 3);

        let zone = |node: &u64| {
            zones
                .iter()
                .find(|member| member.node == *node)
                .unwrap()
                .zone
                .clone()
        };
        for replicas in &plan {
            let distinct: BTreeSet<_> = replicas.iter().map(zone).collect();
            assert_eq!(distinct.len(), 3, "{replicas:?}");
        }
        assert_eq!(extremes(&plan, Clone::clone), (8, 8));
    }

    #[test]
    fn a_plan_that_was_carried_out_stays() {
        for count in 1..=7 {
            let plan = spread(&vec![Vec::new(); 16], &plain(1..=count), 3);
            assert_eq!(spread(&plan, &plain(1..=count), 3), plan, "{count} nodes");
        }
    }

    #[test]
    fn without_nodes_nothing_changes() {
        let plan = vec![vec![1, 2], vec![2, 1]];
        assert_eq!(spread(&plan, &[], 3), plan);
    }
}
