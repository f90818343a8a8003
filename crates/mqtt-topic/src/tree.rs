//! A map from topic filters to values that finds all values whose filter matches a topic.
//!
//! Levels are interned once, nodes lie in one arena, and one hash map holds every literal edge: a match costs one
//! look-up per level of the topic and one per node it visits.

use foldhash::HashMap;
use smallvec::SmallVec;

use crate::TopicFilter;
use crate::levels::Levels;

const ROOT: u32 = 0;
/// No node, or no literal level.
const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Node<V> {
    parent: u32,
    /// The level that leads here from the parent; `NONE` for `+`.
    level: u32,
    /// Literal children.
    children: u32,
    plus: u32,
    /// Of the filter that ends here.
    value: Option<V>,
    /// Of the filter that goes on with `#`.
    multi: Option<V>,
}

impl<V> Node<V> {
    fn new(parent: u32, level: u32) -> Self {
        Self {
            parent,
            level,
            children: 0,
            plus: NONE,
            value: None,
            multi: None,
        }
    }

    fn is_unused(&self) -> bool {
        self.children == 0 && self.plus == NONE && self.value.is_none() && self.multi.is_none()
    }
}

/// Filters with a value each. What a match visits, and in which order, depends only on the filters in it.
#[derive(Clone, Debug)]
pub struct FilterTree<V> {
    nodes: Vec<Node<V>>,
    free: Vec<u32>,
    edges: HashMap<(u32, u32), u32>,
    levels: Levels,
    len: usize,
}

impl<V> Default for FilterTree<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> FilterTree<V> {
    /// An empty tree.
    pub fn new() -> Self {
        Self {
            nodes: vec![Node::new(NONE, NONE)],
            free: Vec::new(),
            edges: HashMap::default(),
            levels: Levels::default(),
            len: 0,
        }
    }

    /// How many filters have a value.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a filter.
    pub fn get(&self, filter: &TopicFilter) -> Option<&V> {
        let (node, multi) = self.find(filter)?;
        let node = &self.nodes[node as usize];
        if multi {
            node.multi.as_ref()
        } else {
            node.value.as_ref()
        }
    }

    /// The value of a filter, to be changed.
    pub fn get_mut(&mut self, filter: &TopicFilter) -> Option<&mut V> {
        let (node, multi) = self.find(filter)?;
        let node = &mut self.nodes[node as usize];
        if multi {
            node.multi.as_mut()
        } else {
            node.value.as_mut()
        }
    }

    /// The value of a filter, made by `make` when there is none.
    pub fn get_or_insert_with(&mut self, filter: &TopicFilter, make: impl FnOnce() -> V) -> &mut V {
        let (path, multi) = split(filter);
        let mut node = ROOT;
        for level in path {
            node = self.step(node, level);
        }
        let node = &mut self.nodes[node as usize];
        let slot = if multi { &mut node.multi } else { &mut node.value };
        if slot.is_none() {
            self.len += 1;
        }
        slot.get_or_insert_with(make)
    }

    /// Takes a filter and its value away, and the nodes that nothing else needs.
    pub fn remove(&mut self, filter: &TopicFilter) -> Option<V> {
        let (place, multi) = self.find(filter)?;
        let node = &mut self.nodes[place as usize];
        let value = if multi {
            node.multi.take()
        } else {
            node.value.take()
        }?;
        self.len -= 1;
        self.prune(place);
        Some(value)
    }

    /// Calls `visit` with the value of every filter that matches the topic. Filters with a leading wildcard do not
    /// match a topic that begins with `$`. [MQTT-4.7.2-1]
    pub fn for_each_match<'a>(&'a self, topic: &str, mut visit: impl FnMut(&'a V)) {
        let levels: SmallVec<[u32; 16]> = topic
            .split('/')
            .map(|level| self.levels.find(level).unwrap_or(NONE))
            .collect();
        let dollar = topic.starts_with('$');
        let mut open: SmallVec<[(u32, u32); 32]> = SmallVec::new();
        open.push((ROOT, 0));
        while let Some((place, depth)) = open.pop() {
            let node = &self.nodes[place as usize];
            let wildcards = !(dollar && depth == 0);
            if wildcards && let Some(value) = &node.multi {
                visit(value);
            }
            let Some(level) = levels.get(depth as usize) else {
                if let Some(value) = &node.value {
                    visit(value);
                }
                continue;
            };
            // The last one pushed is visited first: `+` before the literal level.
            if node.children > 0
                && *level != NONE
                && let Some(child) = self.edges.get(&(place, *level))
            {
                open.push((*child, depth + 1));
            }
            if wildcards && node.plus != NONE {
                open.push((node.plus, depth + 1));
            }
        }
    }

    /// Every filter with its value, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (String, &V)> {
        self.nodes.iter().enumerate().flat_map(move |(place, node)| {
            let exact = node.value.as_ref().map(|value| (self.path(place as u32), value));
            let multi = node.multi.as_ref().map(|value| {
                let path = self.path(place as u32);
                (if place == 0 { "#".to_owned() } else { path + "/#" }, value)
            });
            exact.into_iter().chain(multi)
        })
    }

    fn path(&self, mut place: u32) -> String {
        let mut levels = Vec::new();
        while place != ROOT {
            let node = &self.nodes[place as usize];
            levels.push(if node.level == NONE {
                "+"
            } else {
                self.levels.text(node.level)
            });
            place = node.parent;
        }
        levels.reverse();
        levels.join("/")
    }

    fn find(&self, filter: &TopicFilter) -> Option<(u32, bool)> {
        let (path, multi) = split(filter);
        let mut node = ROOT;
        for level in path {
            node = match level {
                "+" => self.nodes[node as usize].plus,
                level => *self.edges.get(&(node, self.levels.find(level)?))?,
            };
            if node == NONE {
                return None;
            }
        }
        Some((node, multi))
    }

    fn step(&mut self, from: u32, level: &str) -> u32 {
        if level == "+" {
            let known = self.nodes[from as usize].plus;
            if known != NONE {
                return known;
            }
            let new = self.add(from, NONE);
            self.nodes[from as usize].plus = new;
            return new;
        }
        let level_known = self.levels.find(level);
        if let Some(known) = level_known.and_then(|level| self.edges.get(&(from, level))) {
            return *known;
        }
        let level = self.levels.acquire(level);
        let new = self.add(from, level);
        self.edges.insert((from, level), new);
        self.nodes[from as usize].children += 1;
        new
    }

    fn add(&mut self, parent: u32, level: u32) -> u32 {
        let node = Node::new(parent, level);
        match self.free.pop() {
            Some(place) => {
                self.nodes[place as usize] = node;
                place
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() as u32 - 1
            }
        }
    }

    fn prune(&mut self, mut place: u32) {
        while place != ROOT && self.nodes[place as usize].is_unused() {
            let (parent, level) = (
                self.nodes[place as usize].parent,
                self.nodes[place as usize].level,
            );
            if level == NONE {
                self.nodes[parent as usize].plus = NONE;
            } else {
                self.edges.remove(&(parent, level));
                self.nodes[parent as usize].children -= 1;
                self.levels.release(level);
            }
            self.free.push(place);
            place = parent;
        }
    }
}

/// The levels before a final `#`, and whether there is one.
fn split(filter: &TopicFilter) -> (std::str::Split<'_, char>, bool) {
    let text = filter.as_str();
    match text.strip_suffix("/#") {
        Some(path) => (path.split('/'), true),
        None if text == "#" => {
            let mut nothing = "".split('/');
            nothing.next();
            (nothing, true)
        }
        None => (text.split('/'), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::parse(text.into()).unwrap()
    }

    fn matches(tree: &FilterTree<String>, topic: &str) -> Vec<String> {
        let mut found = Vec::new();
        tree.for_each_match(topic, |value| found.push(value.clone()));
        found
    }

    fn tree(filters: &[&str]) -> FilterTree<String> {
        let mut tree = FilterTree::new();
        for text in filters {
            tree.get_or_insert_with(&filter(text), || (*text).to_owned());
        }
        tree
    }

    #[test]
    fn a_topic_finds_every_filter_that_matches_it() {
        let tree = tree(&["a/b", "a/+", "a/#", "#", "+/b", "a", "b", "a/b/#", "a/b/c"]);
        let mut found = matches(&tree, "a/b");
        found.sort();
        assert_eq!(found, ["#", "+/b", "a/#", "a/+", "a/b", "a/b/#"]);
    }

    #[test]
    fn mqtt_4_7_2_1_leading_wildcards_do_not_match_dollar_topics() {
        let tree = tree(&["#", "+/x", "$SYS/#", "$SYS/+"]);
        let mut found = matches(&tree, "$SYS/x");
        found.sort();
        assert_eq!(found, ["$SYS/#", "$SYS/+"]);
    }

    #[test]
    fn removing_the_last_filter_leaves_nothing_behind() {
        let mut tree = tree(&["a/b/c", "a/+/c", "a/#", "#"]);
        for text in ["a/b/c", "a/+/c", "a/#", "#"] {
            assert_eq!(tree.remove(&filter(text)).as_deref(), Some(text));
            assert_eq!(tree.remove(&filter(text)), None);
        }
        assert!(tree.is_empty() && tree.edges.is_empty() && tree.levels.is_empty());
        assert_eq!(tree.free.len(), tree.nodes.len() - 1);
    }

    #[test]
    fn the_order_of_a_match_does_not_depend_on_history() {
        let filters = ["a/b", "a/+", "a/#", "#", "+/b"];
        let forward = tree(&filters);
        let mut backward = FilterTree::new();
        backward.get_or_insert_with(&filter("z/z"), String::new);
        for text in filters.iter().rev() {
            backward.get_or_insert_with(&filter(text), || (*text).to_owned());
        }
        backward.remove(&filter("z/z"));
        assert_eq!(matches(&forward, "a/b"), matches(&backward, "a/b"));
    }

    #[test]
    fn a_topic_of_65_535_levels_is_no_trouble() {
        let tree = tree(&["#", "+/+/#"]);
        assert_eq!(matches(&tree, &"/".repeat(65_534)).len(), 2);
    }

    #[test]
    fn iteration_gives_every_filter_back() {
        let filters = ["#", "+", "/", "a/+/b/#", "a//b", "$SYS/#"];
        let tree = tree(&filters);
        for (text, value) in tree.iter() {
            assert_eq!(text, *value);
        }
        assert_eq!(tree.iter().count(), filters.len());
    }
}
