//! Just enough Markdown to read a pull request: everything is escaped first, then headings, lists, tables,
//! fences, quotes, bold, code and http links are dressed. No HTML of the author survives.

use super::page::escape;

/// Markdown as safe HTML.
pub fn html(text: &str) -> String {
    let mut out = String::new();
    let mut open: Option<&str> = None;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let trimmed = line.trim();
        if let Some(fence) = ["```", "~~~"].into_iter().find(|fence| trimmed.starts_with(fence)) {
            close(&mut out, &mut open);
            out.push_str("<pre><code>");
            for line in lines.by_ref().take_while(|line| !line.trim().starts_with(fence)) {
                out.push_str(&escape(line));
                out.push('\n');
            }
            out.push_str("</code></pre>");
            continue;
        }
        if trimmed.is_empty() || (trimmed.starts_with("<!--") && trimmed.ends_with("-->")) {
            close(&mut out, &mut open);
            continue;
        }
        let folded = trimmed.strip_prefix("<details><summary>").and_then(|rest| rest.strip_suffix("</summary>"));
        if let Some(words) = folded {
            close(&mut out, &mut open);
            out.push_str(&format!("<details><summary>{}</summary>", inline(words)));
            continue;
        }
        if trimmed.eq_ignore_ascii_case("<details>") || trimmed.eq_ignore_ascii_case("</details>") {
            close(&mut out, &mut open);
            out.push_str(&trimmed.to_lowercase());
            continue;
        }
        if let Some(words) = trimmed.strip_prefix("<summary>").and_then(|rest| rest.strip_suffix("</summary>")) {
            out.push_str(&format!("<summary>{}</summary>", inline(words)));
            continue;
        }
        let hashes = trimmed.bytes().take_while(|byte| *byte == b'#').count();
        if (1..=6).contains(&hashes) && trimmed[hashes..].starts_with(' ') {
            close(&mut out, &mut open);
            let level = (hashes + 1).min(6);
            out.push_str(&format!("<h{level}>{}</h{level}>", inline(trimmed[hashes..].trim())));
        } else if trimmed.starts_with('|') {
            if trimmed.chars().all(|c| matches!(c, '|' | '-' | ':' | ' ')) {
                continue;
            }
            let heads = lines.peek().is_some_and(|next| {
                next.trim().starts_with('|') && next.chars().all(|c| matches!(c, '|' | '-' | ':' | ' '))
            });
            switch(&mut out, &mut open, "table");
            let cell = if heads { "th" } else { "td" };
            let cells: String =
                cells(trimmed).iter().map(|text| format!("<{cell}>{}</{cell}>", inline(text.trim()))).collect();
            out.push_str(&format!("<tr>{cells}</tr>"));
        } else if let Some(item) = trimmed.strip_prefix("- ").or_else(|| trimmed.strip_prefix("* ")) {
            switch(&mut out, &mut open, "ul");
            out.push_str(&format!("<li>{}</li>", inline(item)));
        } else if let Some(item) =
            trimmed.split_once(". ").filter(|(number, _)| number.parse::<u32>().is_ok()).map(|(_, item)| item)
        {
            switch(&mut out, &mut open, "ol");
            out.push_str(&format!("<li>{}</li>", inline(item)));
        } else if let Some(quote) = trimmed.strip_prefix('>') {
            switch(&mut out, &mut open, "blockquote");
            out.push_str(&format!("{}<br>", inline(quote.trim())));
        } else {
            switch(&mut out, &mut open, "p");
            out.push_str(&inline(trimmed));
            out.push(' ');
        }
    }
    close(&mut out, &mut open);
    out
}

fn cells(row: &str) -> Vec<String> {
    let (mut cells, mut cell, mut escaped) = (Vec::new(), String::new(), false);
    for character in row.trim_start_matches('|').chars() {
        match (escaped, character) {
            (false, '\\') => escaped = true,
            (false, '|') => cells.push(std::mem::take(&mut cell)),
            (true, '|') => {
                cell.push('|');
                escaped = false;
            }
            (was, other) => {
                if was {
                    cell.push('\\');
                }
                cell.push(other);
                escaped = false;
            }
        }
    }
    if !cell.trim().is_empty() {
        cells.push(cell);
    }
    cells
}

fn switch<'a>(out: &mut String, open: &mut Option<&'a str>, to: &'a str) {
    if *open != Some(to) {
        close(out, open);
        out.push_str(&format!("<{to}>"));
        *open = Some(to);
    }
}

fn close(out: &mut String, open: &mut Option<&str>) {
    if let Some(tag) = open.take() {
        out.push_str(&format!("</{tag}>"));
    }
}

fn inline(text: &str) -> String {
    let mut out = String::new();
    for (number, part) in text.split('`').enumerate() {
        let part = escape(part);
        if number % 2 == 1 {
            out.push_str(&format!("<code>{part}</code>"));
        } else {
            out.push_str(&links(&bold(&part)));
        }
    }
    out
}

fn bold(text: &str) -> String {
    let mut out = String::new();
    for (number, part) in text.split("**").enumerate() {
        if number > 0 {
            out.push_str(if number % 2 == 1 { "<b>" } else { "</b>" });
        }
        out.push_str(part);
    }
    if text.matches("**").count() % 2 == 1 {
        out.push_str("</b>");
    }
    out
}

fn links(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(start) = rest.find('[') {
        let Some((label, after)) = rest[start + 1..].split_once("](") else {
            break;
        };
        let Some((target, after)) = after.split_once(')') else {
            break;
        };
        out.push_str(&rest[..start]);
        if target.starts_with("http://") || target.starts_with("https://") {
            out.push_str(&format!("<a href=\"{target}\" rel=noreferrer>{label}</a>"));
        } else {
            out.push_str(&format!("{label} ({target})"));
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_of_the_author_is_shown_and_never_run() {
        let shown = html("<script>alert(1)</script> [x](javascript:alert(1)) **b** `<i>`");
        assert!(!shown.contains("<script") && !shown.contains("href"), "{shown}");
        assert!(shown.contains("<b>b</b>") && shown.contains("<code>&lt;i&gt;</code>"));
    }

    #[test]
    fn tables_lists_and_fences_are_dressed() {
        let shown = html("# T\n| a | b |\n|---|---|\n| 1 | x \\| y |\n\n- one\n- two\n```diff\n+ <a>\n```");
        assert!(
            shown.contains("<h2>T</h2>") && shown.contains("<th>a</th>") && shown.contains("<td>x | y</td>"),
            "{shown}"
        );
        let folded = html("<details><summary>The <i>diff</i></summary>\n\ntext\n</details>");
        assert_eq!(folded, "<details><summary>The &lt;i&gt;diff&lt;/i&gt;</summary><p>text </p></details>");
        assert!(shown.contains("<ul><li>one</li><li>two</li></ul>") && shown.contains("+ &lt;a&gt;"), "{shown}");
    }
}
