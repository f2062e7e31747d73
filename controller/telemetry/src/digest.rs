//! One canonical form of every answer, so that the same answer always has the same digest.

use std::collections::BTreeMap;

use amend_diagnosis::evidence::{LogLine, Series, Span, TopologyEdge};
use sha2::{Digest, Sha256};

use crate::questions::Exemplar;

/// An answer that can be hashed: every part is written with its length in front, maps in key order.
pub trait Canonical {
    fn write(&self, out: &mut Writer);

    /// SHA-256 in hex.
    fn digest(&self) -> String {
        let mut out = Writer(Sha256::new());
        self.write(&mut out);
        hex::encode(out.0.finalize())
    }
}

/// Collects the canonical bytes.
#[derive(Debug)]
pub struct Writer(Sha256);

impl Writer {
    pub fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.update(text.as_bytes());
    }

    pub fn number(&mut self, number: u64) {
        self.0.update(number.to_be_bytes());
    }

    pub fn float(&mut self, value: f64) {
        self.number(value.to_bits());
    }

    fn optional(&mut self, text: Option<&str>) {
        self.number(u64::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    fn map(&mut self, map: &BTreeMap<String, String>) {
        self.number(map.len() as u64);
        for (key, value) in map {
            self.text(key);
            self.text(value);
        }
    }
}

impl<T: Canonical> Canonical for Vec<T> {
    fn write(&self, out: &mut Writer) {
        out.number(self.len() as u64);
        for item in self {
            item.write(out);
        }
    }
}

impl Canonical for (f64, f64) {
    fn write(&self, out: &mut Writer) {
        out.float(self.0);
        out.float(self.1);
    }
}

impl Canonical for Series {
    /// The question's id is left out: the same samples are the same answer.
    fn write(&self, out: &mut Writer) {
        out.map(&self.labels);
        self.samples.write(out);
    }
}

impl Canonical for Span {
    fn write(&self, out: &mut Writer) {
        out.text(&self.trace_id);
        out.text(&self.span_id);
        out.optional(self.parent_id.as_deref());
        out.text(&self.service);
        out.optional(self.pod.as_deref());
        out.text(&self.operation);
        out.text(&format!("{:?}", self.kind));
        out.number(self.start_ns);
        out.number(self.duration_ns);
        out.number(u64::from(self.error));
        out.map(&self.attributes);
    }
}

impl Canonical for Exemplar {
    fn write(&self, out: &mut Writer) {
        out.text(&self.trace_id);
        out.float(self.took.unwrap_or(f64::NAN));
        out.float(self.at);
    }
}

impl Canonical for LogLine {
    fn write(&self, out: &mut Writer) {
        out.number(self.at_ns.unwrap_or_default());
        out.text(&self.source);
        out.optional(self.severity.as_deref());
        out.text(&self.body);
        out.optional(self.trace_id.as_deref());
        out.optional(self.span_id.as_deref());
        out.number(self.count);
    }
}

impl Canonical for TopologyEdge {
    fn write(&self, out: &mut Writer) {
        out.text(&self.from.to_string());
        out.text(&self.to.to_string());
        out.text(&format!("{:?}", self.kind));
    }
}

impl Canonical for std::time::Duration {
    /// Latencies differ every time; a probe's answer is that there was one.
    fn write(&self, out: &mut Writer) {
        out.text("answered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, value: f64) -> Series {
        Series {
            labels: BTreeMap::from([("pod".to_owned(), name.to_owned())]),
            samples: vec![(1.0, value)],
            asked: format!("question about {value}"),
        }
    }

    #[test]
    fn equal_answers_have_equal_digests_whoever_asked() {
        let (mut left, right) = (series("a", 1.0), series("a", 1.0));
        left.asked = "somebody else".to_owned();
        assert_eq!(vec![left].digest(), vec![right].digest());
    }

    #[test]
    fn a_moved_boundary_changes_the_digest() {
        assert_ne!(vec![series("ab", 1.0)].digest(), vec![series("a", 1.0)].digest());
        assert_ne!(vec![series("a", 1.0)].digest(), vec![series("a", 2.0)].digest());
    }
}
