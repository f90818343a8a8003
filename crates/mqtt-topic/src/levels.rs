//! The texts of topic levels, each kept once under a small number while an edge of the tree uses it.

use std::sync::Arc;

use foldhash::HashMap;

/// Numbers for level texts. The seed of the map is random: clients choose the texts, and nothing is ever visited in
/// the map's order.
#[derive(Clone, Default, Debug)]
pub(crate) struct Levels {
    ids: HashMap<Arc<str>, u32>,
    /// By number; `None` where the number is free.
    known: Vec<Option<Level>>,
    free: Vec<u32>,
}

#[derive(Clone, Debug)]
struct Level {
    text: Arc<str>,
    uses: u32,
}

impl Levels {
    /// The number of a text that is in use.
    pub(crate) fn find(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// The text of a number; a free number has none.
    pub(crate) fn text(&self, id: u32) -> &str {
        self.known
            .get(id as usize)
            .and_then(Option::as_ref)
            .map_or("", |level| &level.text)
    }

    /// Counts one more use of a text and gives its number.
    pub(crate) fn acquire(&mut self, text: &str) -> u32 {
        if let Some(id) = self.find(text) {
            if let Some(level) = &mut self.known[id as usize] {
                level.uses += 1;
            }
            return id;
        }
        let text: Arc<str> = Arc::from(text);
        let id = self.place(Level {
            text: text.clone(),
            uses: 1,
        });
        self.ids.insert(text, id);
        id
    }

    /// Counts one use less; the last one frees the number.
    pub(crate) fn release(&mut self, id: u32) {
        let slot = &mut self.known[id as usize];
        let Some(level) = slot else { return };
        level.uses -= 1;
        if level.uses == 0 {
            self.ids.remove(&level.text);
            *slot = None;
            self.free.push(id);
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.free.len() == self.known.len()
    }

    fn place(&mut self, level: Level) -> u32 {
        if let Some(id) = self.free.pop() {
            self.known[id as usize] = Some(level);
            return id;
        }
        self.known.push(Some(level));
        self.known.len() as u32 - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_free_after_its_last_use() {
        let mut levels = Levels::default();
        let first = levels.acquire("a");
        assert_eq!(levels.acquire("a"), first);
        levels.release(first);
        assert_eq!((levels.find("a"), levels.text(first)), (Some(first), "a"));
        levels.release(first);
        assert_eq!(levels.find("a"), None);
        assert!(levels.is_empty());
        assert_eq!(levels.acquire("b"), first);
    }
}
