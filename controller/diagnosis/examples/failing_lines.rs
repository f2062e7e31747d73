//! Writes the features of every line of CI logs, for `train/failing_lines.py`.
//!
//! `cargo run --release -p amend-diagnosis --example failing_lines -- FROM TO`: for each case directory in FROM, TO gets
//! `CASE.own` and, where there is a passing log, `CASE.compared`: rows of little-endian 32-bit floats.
#![allow(clippy::unwrap_used, reason = "a tool for developers")]

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use amend_diagnosis::build::features::{Features, OWN, Passed, lines};

fn main() {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let (from, to) = (arguments.next().unwrap(), arguments.next().unwrap());
    for case in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()) {
        let Some(failed) = text(&case.join("fail.log")) else { continue };
        let log = Features::of(lines(&failed));
        let named = |ending: &str| to.join(format!("{}.{ending}", case.file_name().unwrap().to_string_lossy()));
        let mut own = BufWriter::new(File::create(named("own")).unwrap());
        let mut row = Vec::with_capacity(OWN);
        for line in 0..log.lines.len() {
            log.row(line, &mut row);
            write(&mut own, &row);
        }
        if let Some(passed) = text(&case.join("pass.log")) {
            let mut compared = BufWriter::new(File::create(named("compared")).unwrap());
            // The scores of the first table stand first in a row; the trainer fills them in.
            for row in Passed::of(lines(&passed)).rows(&log, &vec![0.0; log.lines.len()]) {
                write(&mut compared, &row);
            }
        }
    }
}

fn text(path: &Path) -> Option<String> {
    Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned())
}

fn write(out: &mut impl Write, row: &[f32]) {
    for value in row {
        out.write_all(&value.to_le_bytes()).unwrap();
    }
}
