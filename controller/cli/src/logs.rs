//! `amend logs parse`: lines in, templates out. `amend logs unknown`: see its file.

pub mod unknown;

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

use amend_diagnosis::logs::template::Miner;
use clap::Subcommand;

/// Log lines.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Reads lines and writes one line each: template id, tab, template with `<*>`, tab, class.
    Parse,
    Unknown(unknown::Arguments),
}

pub fn parse_input() -> anyhow::Result<()> {
    let input = BufReader::with_capacity(1 << 16, io::stdin().lock());
    parse(input, BufWriter::with_capacity(1 << 16, io::stdout().lock()))?;
    Ok(())
}

/// Bytes that are read before lines are written: merging must see several examples of a line.
const BLOCK: usize = 8 << 20;

/// Bytes of a line that are kept; templates are made of less.
const LINE_KEPT: u64 = 1 << 16;

fn parse(mut input: impl BufRead, mut output: impl Write) -> io::Result<()> {
    let mut miner = Miner::default();
    let mut block = Vec::with_capacity(BLOCK + LINE_KEPT as usize);
    // What follows the line's number in the output, by template place; good for one block.
    let mut tails: Vec<String> = Vec::new();
    loop {
        block.clear();
        while block.len() < BLOCK && line_into(&mut input, &mut block)? {}
        if block.is_empty() {
            return output.flush();
        }
        let text = String::from_utf8_lossy(&block);
        let places = miner.block(text.strip_suffix('\n').unwrap_or(&text).split('\n'));
        tails.clear();
        tails.extend((0..miner.count() as u32).map(|place| {
            let template = miner.template(place);
            format!("{}\t{}\t{}\n", template.id, template.text, template.class)
        }));
        for place in places {
            output.write_all(tails[place as usize].as_bytes())?;
        }
    }
}

/// Adds one line, cut where it is too long, and its end; false when there is none left.
fn line_into(input: &mut impl BufRead, block: &mut Vec<u8>) -> io::Result<bool> {
    let read = input.by_ref().take(LINE_KEPT).read_until(b'\n', block)?;
    if read > 0 && block.last() != Some(&b'\n') {
        input.skip_until(b'\n')?;
        block.push(b'\n');
    }
    Ok(read > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(input: &[u8]) -> String {
        let mut output = Vec::new();
        parse(input, &mut output).expect("memory can be read and written");
        String::from_utf8(output).expect("templates are text")
    }

    #[test]
    fn each_line_has_one_line_of_output() {
        assert_eq!(
            parsed(b"took 3 s\n\ndial tcp 10.0.0.1:80: connect: connection refused\ntook 5 s"),
            "0\ttook <*> s\tother\n1\t\tother\n2\tdial tcp <*>:<*>: connect: connection refused\tnetwork\n0\ttook <*> s\tother\n"
        );
        assert_eq!(parsed(b""), "");
    }

    #[test]
    fn binary_and_megabyte_lines_are_bounded_and_counted() {
        let mut input = vec![b'x'; 1 << 20];
        input.extend(b"\nplain\n\xff\xfe\x00\x1b[31m\n");
        let output = parsed(&input);
        assert_eq!(output.lines().count(), 3);
        assert!(output.len() < 4096 && !output.contains('\u{1b}'), "{output:?}");
    }
}
