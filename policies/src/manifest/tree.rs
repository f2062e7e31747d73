//! YAML as a tree in which every node knows the bytes that it came from.

use std::ops::Range;

use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StructureStyle};

/// A node of one document.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub content: Content,
    /// Bytes of the node in the file. For block collections the end is only a hint.
    pub span: Range<usize>,
    /// Number of the anchor on this node; 0 without one.
    pub anchor: usize,
    pub tag: Option<String>,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    Scalar { text: String, style: Style },
    Mapping { entries: Vec<(Node, Node)>, flow: bool },
    Sequence { items: Vec<Node>, flow: bool },
    Alias(usize),
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Single,
    Double,
    Block,
}

impl Node {
    /// The value of a key; `None` when this is no mapping or has no such key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.content {
            Content::Mapping { entries, .. } => {
                entries.iter().find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value)
            }
            Content::Scalar { .. } | Content::Sequence { .. } | Content::Alias(_) => None,
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Scalar { text, .. } => Some(text),
            Content::Mapping { .. } | Content::Sequence { .. } | Content::Alias(_) => None,
        }
    }

    /// Whether this is an empty value, `~` or `null`.
    pub fn is_null(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, style: Style::Plain } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// The byte after the last leaf below this node: where its visible text ends.
    pub fn end(&self) -> usize {
        match &self.content {
            Content::Mapping { entries, flow: false } => {
                entries.last().map_or(self.span.end, |(key, value)| value.end().max(key.end()))
            }
            Content::Sequence { items, flow: false } => items.last().map_or(self.span.end, Node::end),
            Content::Scalar { .. } | Content::Mapping { .. } | Content::Sequence { .. } | Content::Alias(_) => {
                self.span.end
            }
        }
    }

    /// Calls `with` for this node and every node below it.
    pub fn each<'a>(&'a self, with: &mut impl FnMut(&'a Node)) {
        with(self);
        match &self.content {
            Content::Mapping { entries, .. } => {
                for (key, value) in entries {
                    key.each(with);
                    value.each(with);
                }
            }
            Content::Sequence { items, .. } => items.iter().for_each(|item| item.each(with)),
            Content::Scalar { .. } | Content::Alias(_) => {}
        }
    }
}

/// Larger files are not manifests that people review; the bound also keeps the proof (two more parses) cheap.
const BYTES_MAX: usize = 1 << 20;

/// Deeper nesting than any Kubernetes object has; keeps the recursion here within its stack.
const DEPTH_MAX: u32 = 64;

/// Reads all documents of a file. Spans count bytes of `text`, a byte order mark included.
///
/// # Errors
/// A clause that says what and where.
pub(super) fn parse(text: &str) -> Result<Vec<Node>, String> {
    if text.len() > BYTES_MAX {
        return Err("it is larger than 1 MiB".into());
    }
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut options = Options::default();
    options.set_emit_comments(false);
    let mut reader =
        Reader { parser: Parser::new_from_str_with_options(body, options), offset: text.len() - body.len() };
    let mut documents = Vec::new();
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::DocumentStart(..), _) => {
                let (event, span) = reader.next()?;
                documents.push(reader.node(event, &span, 0)?);
            }
            _ => {}
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    offset: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), String> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => {
                let line = error.marker().line();
                Err(format!("line {line}: {}", crate::policy::cleaned(&error.info(), 120)))
            }
            None => Err("it ends in the middle".into()),
        }
    }

    fn range(&self, span: &Span) -> Result<Range<usize>, String> {
        let range = span.byte_range().ok_or("a value has no place in the file")?;
        Ok(range.start + self.offset..range.end + self.offset)
    }

    fn node(&mut self, event: Event<'a>, span: &Span, depth: u32) -> Result<Node, String> {
        if depth > DEPTH_MAX {
            return Err(format!("it nests deeper than {DEPTH_MAX} levels"));
        }
        let start = self.range(span)?;
        let tagged = |tag: Option<std::borrow::Cow<'_, granit_parser::Tag>>| tag.map(|tag| tag.original());
        match event {
            Event::Alias(id) => Ok(Node { content: Content::Alias(id), span: start, anchor: 0, tag: None }),
            Event::Scalar(text, style, anchor, tag) => {
                let style = match style {
                    ScalarStyle::Plain => Style::Plain,
                    ScalarStyle::SingleQuoted => Style::Single,
                    ScalarStyle::DoubleQuoted => Style::Double,
                    ScalarStyle::Literal | ScalarStyle::Folded => Style::Block,
                };
                let content = Content::Scalar { text: text.into_owned(), style };
                Ok(Node { content, span: start, anchor, tag: tagged(tag) })
            }
            Event::SequenceStart(style, anchor, tag) => {
                let mut items = Vec::new();
                loop {
                    let (event, inner) = self.next()?;
                    if event == Event::SequenceEnd {
                        let span = start.start..self.range(&inner)?.end;
                        let content = Content::Sequence { items, flow: style == StructureStyle::Flow };
                        return Ok(Node { content, span, anchor, tag: tagged(tag) });
                    }
                    items.push(self.node(event, &inner, depth + 1)?);
                }
            }
            Event::MappingStart(style, anchor, tag) => {
                let mut entries = Vec::new();
                loop {
                    let (event, inner) = self.next()?;
                    if event == Event::MappingEnd {
                        let span = start.start..self.range(&inner)?.end;
                        let content = Content::Mapping { entries, flow: style == StructureStyle::Flow };
                        return Ok(Node { content, span, anchor, tag: tagged(tag) });
                    }
                    let key = self.node(event, &inner, depth + 1)?;
                    let (event, inner) = self.next()?;
                    entries.push((key, self.node(event, &inner, depth + 1)?));
                }
            }
            _ => Err("an unexpected piece of YAML".into()),
        }
    }
}
