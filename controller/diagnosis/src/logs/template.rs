//! Templates: which lines say the same thing with other values?
//!
//! A line is scanned into its skeleton (see [`scan`](super::scan)); lines with one skeleton are one template, and skeletons that
//! differ in a word that varies are merged (see [`merge`](super::merge)). No settings per system.
//!
//! Logs are read in blocks, because merging needs to see several lines and memory is bounded: a number that was given away
//! stays with its template, and a template found later by merging gets a new one.

use std::collections::HashMap;

use super::catalogue::{Class, classify};
use super::merge::{Words, merge};
use super::scan::Scanner;

/// What stands for a value.
pub const VALUE: &str = "<*>";

/// What lines have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Never used twice by one miner.
    pub id: u64,
    /// With [`VALUE`] where lines differ; free of control characters.
    pub text: String,
    pub class: Class,
}

/// Finds templates, block by block, in bounded memory.
#[derive(Debug)]
pub struct Miner {
    scanner: Scanner,
    words: Words,
    /// Skeletons by text: which of `known` each is an example of.
    skeletons: HashMap<Box<str>, u32>,
    known: Vec<Known>,
    next_id: u64,
    limits: Limits,
}

/// How much a miner remembers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Skeletons, each at most a line long.
    pub skeletons: usize,
    /// Bytes in the texts of all skeletons.
    pub bytes: usize,
}

impl Default for Limits {
    /// A large program has a few thousand templates; more mean that lines are not templates at all, but data.
    fn default() -> Self {
        Self { skeletons: 50_000, bytes: 16 << 20 }
    }
}

/// A template with what merging needs to know of it.
#[derive(Debug)]
struct Known {
    template: Template,
    tokens: Vec<u32>,
    lines: usize,
}

impl Default for Miner {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl Miner {
    pub fn new(limits: Limits) -> Self {
        Self {
            scanner: Scanner::default(),
            words: Words::new(),
            skeletons: HashMap::new(),
            known: Vec::new(),
            next_id: 0,
            limits,
        }
    }

    /// For each line the place of its template, to be asked of [`Miner::template`] before the next block.
    pub fn block<'l>(&mut self, lines: impl IntoIterator<Item = &'l str>) -> Vec<u32> {
        self.forget();
        let old = self.known.len();
        let mut places: Vec<u32> = Vec::new();
        for line in lines {
            let text = self.scanner.scan(line);
            let place = match self.skeletons.get(text) {
                Some(place) => *place,
                None => {
                    let place = self.known.len() as u32;
                    self.skeletons.insert(text.into(), place);
                    let tokens = self.scanner.tokens().map(|token| self.words.number(token)).collect();
                    // The text and the number follow when merging has seen the whole block.
                    let template = Template { id: 0, text: String::new(), class: Class::Other };
                    self.known.push(Known { template, tokens, lines: 0 });
                    place
                }
            };
            self.known[place as usize].lines += 1;
            places.push(place);
        }
        if self.known.len() > old {
            let moved = self.settle(old);
            for place in &mut places {
                *place = moved[*place as usize];
            }
            #[expect(clippy::iter_over_hash_type, clippy::disallowed_methods, reason = "each is moved for itself")]
            for place in self.skeletons.values_mut() {
                *place = moved[*place as usize];
            }
        }
        places
    }

    /// The template at a place that [`Miner::block`] gave.
    pub fn template(&self, place: u32) -> &Template {
        &self.known[place as usize].template
    }

    /// How many templates are known.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    /// Merges what is new with what was known; says where each known template is now.
    fn settle(&mut self, old: usize) -> Vec<u32> {
        let before = std::mem::take(&mut self.known);
        let (tokens, lines): (Vec<Vec<u32>>, Vec<usize>) =
            before.iter().map(|known| (known.tokens.clone(), known.lines)).unzip();
        let merged = merge(&self.words, &tokens, &lines);
        let mut by_meaning: HashMap<String, u32> = HashMap::new();
        let mut moved = Vec::with_capacity(before.len());
        for (index, (known, tokens)) in before.into_iter().zip(merged).enumerate() {
            let kept = index < old && known.tokens == tokens;
            let text = match kept {
                true => known.template.text.clone(),
                false => tokens.iter().map(|token| self.words.text(*token)).collect(),
            };
            let place = *by_meaning.entry(canonical(&text)).or_insert(self.known.len() as u32);
            if let Some(first) = self.known.get_mut(place as usize) {
                first.lines += known.lines;
            } else if kept {
                self.known.push(known);
            } else {
                let template = Template { id: self.next_id, class: classify(&text), text };
                self.next_id += 1;
                self.known.push(Known { template, tokens, lines: known.lines });
            }
            moved.push(place);
        }
        moved
    }

    /// Keeps memory within bounds between blocks: what was seen once goes first, then everything.
    fn forget(&mut self) {
        let within = |miner: &Self| {
            #[expect(clippy::disallowed_methods, reason = "a sum has no order")]
            let bytes: usize = miner.skeletons.keys().map(|text| text.len()).sum();
            miner.skeletons.len().max(miner.words.count()) <= miner.limits.skeletons && bytes <= miner.limits.bytes
        };
        for least in [2, usize::MAX] {
            if within(self) {
                return;
            }
            let mut moved: HashMap<u32, u32> = HashMap::new();
            let mut words = Words::new();
            let before = std::mem::take(&mut self.known);
            for (place, mut known) in (0u32..).zip(before).filter(|(_, known)| known.lines >= least) {
                for token in &mut known.tokens {
                    *token = words.number(self.words.text(*token));
                }
                moved.insert(place, self.known.len() as u32);
                self.known.push(known);
            }
            self.words = words;
            self.skeletons.retain(|_, place| moved.get(place).map(|now| *place = *now).is_some());
        }
    }
}

/// Neighbouring marks are one, and so are runs of spaces: equal in meaning is equal.
fn canonical(template: &str) -> String {
    let mut text = template.split_whitespace().collect::<Vec<_>>().join(" ");
    loop {
        let shorter = ["<*>.<*>", "<*>,<*>", "<*>:<*>", "<*>/<*>", "<*>_<*>", "<*>-<*>", "<*><*>"].iter().fold(
            text.clone(),
            |text, between| if text.contains(between) { text.replace(between, VALUE) } else { text },
        );
        if shorter == text {
            return text;
        }
        text = shorter;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn templates(lines: &[&str]) -> Vec<String> {
        let mut miner = Miner::default();
        let places = miner.block(lines.iter().copied());
        places.into_iter().map(|place| miner.template(place).text.clone()).collect()
    }

    #[test]
    fn many_rare_words_in_one_place_are_a_value() {
        let lines = ["login of alice ok", "login of bob ok", "login of carol ok", "login of dave ok"];
        assert_eq!(templates(&lines), ["login of <*> ok"; 4]);
    }

    #[test]
    fn a_few_frequent_words_are_an_enumeration() {
        let mut lines = vec!["state is up now"; 20];
        lines.extend(vec!["state is down now"; 20]);
        let found = templates(&lines);
        assert_eq!((found[0].as_str(), found[39].as_str()), ("state is up now", "state is down now"));
    }

    #[test]
    fn a_number_that_was_given_away_stays_with_its_template() {
        let mut miner = Miner::default();
        let first = miner.block(["started in 3 s", "login of alice ok"])[0];
        let id = miner.template(first).id;
        let second = miner.block(["stopped by hand", "started in 12 s"]);
        assert_eq!(miner.template(second[1]).id, id);
        assert_ne!(miner.template(second[0]).id, id);
    }

    #[test]
    fn a_value_is_found_over_several_blocks() {
        let mut miner = Miner::default();
        miner.block(["login of alice ok", "login of bob ok"]);
        let places = miner.block(["login of carol ok", "login of dave ok"]);
        assert_eq!(miner.template(places[0]).text, "login of <*> ok");
        assert_eq!(places[0], places[1]);
    }

    #[test]
    fn memory_is_bounded_when_every_line_is_new() {
        let limits = Limits { skeletons: 100, bytes: 1 << 20 };
        let mut miner = Miner::new(limits);
        let word = |number: usize| -> String {
            (0..6).map(|place| char::from(b'g' + (number / 7usize.pow(place) % 7) as u8)).collect()
        };
        for block in 0..20 {
            let lines: Vec<String> = (0..100).map(|line| format!("{} {0} {0}", word(block * 100 + line))).collect();
            miner.block(lines.iter().map(String::as_str));
            assert!(miner.count() <= 2 * limits.skeletons, "{}", miner.count());
        }
    }
}
