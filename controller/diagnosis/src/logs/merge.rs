//! Merging: skeletons that differ in a single word are one template when that word has the look of a value.
//!
//! Many different words, each rare, are a value; few frequent words are an enumeration and stay apart.

use std::collections::HashMap;

use super::scan::is_separator;
use super::template::VALUE;

/// So many different words in one place make it a value, unless each of them is frequent.
const VALUES_MIN: usize = 4;
/// After a word that introduces a name, three are enough.
const NAMES_MIN: usize = 3;
/// After `=`, two are enough.
const KEYED_MIN: usize = 2;
/// Words that occur more often than this (median) are an enumeration.
const RARE: usize = 8;
/// Each round merges in one more place of a skeleton; few have more than three.
const ROUNDS: usize = 6;

/// The number of the value mark.
pub const MARK: u32 = 0;

/// Words as numbers, so that a skeleton is small and quick to compare.
#[derive(Debug)]
pub struct Words {
    numbers: HashMap<String, u32>,
    texts: Vec<String>,
    constant: Vec<bool>,
}

impl Words {
    pub fn new() -> Self {
        let numbers = HashMap::from([(VALUE.to_owned(), MARK)]);
        Self { numbers, texts: vec![VALUE.to_owned()], constant: vec![false] }
    }

    pub fn number(&mut self, word: &str) -> u32 {
        if let Some(number) = self.numbers.get(word) {
            return *number;
        }
        let number = self.texts.len() as u32;
        self.numbers.insert(word.to_owned(), number);
        self.texts.push(word.to_owned());
        self.constant.push(!is_separator(word) && !word.contains(VALUE));
        number
    }

    pub fn text(&self, number: u32) -> &str {
        &self.texts[number as usize]
    }

    pub fn count(&self) -> usize {
        self.texts.len()
    }

    fn is_constant(&self, number: u32) -> bool {
        self.constant[number as usize]
    }
}

type Skeleton = Vec<u32>;

/// What each skeleton becomes; `counts` says how many lines each stands for.
pub fn merge(words: &Words, skeletons: &[Skeleton], counts: &[usize]) -> Vec<Skeleton> {
    let mut live: HashMap<Skeleton, usize> = HashMap::with_capacity(skeletons.len());
    for (skeleton, count) in skeletons.iter().zip(counts) {
        *live.entry(skeleton.clone()).or_default() += count;
    }
    let mut merging = Merging { words, live, became: HashMap::new() };
    for _ in 0..ROUNDS {
        if !merging.round() {
            break;
        }
    }
    skeletons.iter().map(|skeleton| merging.last(skeleton).clone()).collect()
}

struct Merging<'w> {
    words: &'w Words,
    live: HashMap<Skeleton, usize>,
    became: HashMap<Skeleton, Skeleton>,
}

impl Merging<'_> {
    fn last<'s>(&'s self, skeleton: &'s Skeleton) -> &'s Skeleton {
        let mut at = skeleton;
        while let Some(next) = self.became.get(at) {
            at = next;
        }
        at
    }

    /// One pass over all places where skeletons differ in one word; whether anything was merged.
    fn round(&mut self) -> bool {
        #[expect(clippy::disallowed_methods, reason = "sorted at once")]
        let mut skeletons: Vec<&Skeleton> = self.live.keys().collect();
        skeletons.sort_unstable();
        // Every place of every skeleton, by what stands around it.
        let mut places: Vec<(u64, u32, u32)> = Vec::new();
        for (index, skeleton) in skeletons.iter().enumerate() {
            let start = mixed(u32::MAX as usize, skeleton.len() as u32);
            let total = skeleton.iter().enumerate().fold(start, |sum, (at, word)| sum.wrapping_add(mixed(at, *word)));
            for (at, word) in skeleton.iter().enumerate() {
                if *word == MARK || self.words.is_constant(*word) {
                    places.push((total.wrapping_sub(mixed(at, *word)), at as u32, index as u32));
                }
            }
        }
        places.sort_unstable();
        let mut families: Vec<(usize, Vec<Skeleton>)> = places
            .chunk_by(|a, b| (a.0, a.1) == (b.0, b.1))
            .filter(|family| family.len() >= KEYED_MIN)
            .map(|family| {
                let members = family.iter().map(|(.., index)| skeletons[*index as usize].clone()).collect();
                (family[0].1 as usize, members)
            })
            .collect();
        families.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then_with(|| (a.0, &a.1[0]).cmp(&(b.0, &b.1[0]))));
        let mut merged = false;
        for (at, members) in families {
            merged |= self.join(at, &members);
        }
        merged
    }

    /// Makes one template of skeletons that differ in one place, when the place holds a value.
    fn join(&mut self, at: usize, members: &[Skeleton]) -> bool {
        let first = &members[0];
        let same_rest = |member: &&Skeleton| member[..at] == first[..at] && member[at + 1..] == first[at + 1..];
        let members: Vec<&Skeleton> = members.iter().filter(same_rest).collect();
        let (head, tail) = (&first[..at], &first[at + 1..]);
        let keyed = head.last().is_some_and(|word| self.words.text(*word) == "=");
        if !keyed && !head.iter().chain(tail).any(|word| self.words.is_constant(*word)) {
            return false;
        }
        let spoken = members.iter().filter(|member| member[at] != MARK).count();
        if spoken < self.needed(head, keyed) {
            return false;
        }
        let mut counts: Vec<usize> = members.iter().filter_map(|member| self.live.get(*member).copied()).collect();
        counts.sort_unstable();
        if !keyed && counts.get(counts.len() / 2).is_none_or(|median| *median > RARE) {
            return false;
        }
        let template: Skeleton = head.iter().copied().chain([MARK]).chain(tail.iter().copied()).collect();
        let mut merged = false;
        for member in members.into_iter().filter(|member| **member != template) {
            if let Some(count) = self.live.remove(member) {
                *self.live.entry(template.clone()).or_default() += count;
                self.became.insert(member.clone(), template.clone());
                merged = true;
            }
        }
        merged
    }

    /// How many different words it takes to see a value behind `head`.
    fn needed(&self, head: &[u32], keyed: bool) -> usize {
        let before = head.iter().rev().map(|word| self.words.text(*word)).find(|word| *word != " ");
        match before {
            _ if keyed => KEYED_MIN,
            Some("for" | "user" | "from" | "by" | "host" | "to" | "at" | "named") => NAMES_MIN,
            _ => VALUES_MIN,
        }
    }
}

/// A word at a place as one number; sums of these tell rests apart with 64 bits, and joining compares in full.
fn mixed(at: usize, word: u32) -> u64 {
    let mut x = ((at as u64) << 32 | u64::from(word)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
