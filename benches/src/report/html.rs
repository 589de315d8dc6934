//! The report as one HTML file that needs nothing else: made from the Markdown page, with the plots inlined.
//!
//! Knows as much of Markdown as our pages use: headings, paragraphs, lists, tables, code, images, links, bold. Whatever else stands there is shown
//! as it is; nothing of it is taken for HTML.

use std::fmt::Write;

/// Colours follow what the reader's system prefers; plots have their ink from the page.
const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5c6679; --paper: #fbfcfd; --card: #ffffff; --line: #dfe4ec; --accent: #2f6fce; --stripe: #f3f6fa }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8f0; --soft: #9aa5b8; --paper: #12151b; --card: #1a1f28; --line: #2c3442; --accent: #7fb0f5; --stripe: #1f2530 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.55 system-ui, 'Segoe UI', Roboto, sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 32px 24px 80px }
h1 { font-size: 28px; letter-spacing: -.01em; margin: 0 0 12px }
h2 { font-size: 21px; margin: 44px 0 12px; padding-top: 18px; border-top: 1px solid var(--line) }
h3 { font-size: 16px; margin: 26px 0 8px; overflow-wrap: anywhere }
p { margin: 10px 0; max-width: 78ch }
a { color: var(--accent) }
code { font: 13px ui-monospace, 'DejaVu Sans Mono', monospace; background: var(--stripe); padding: 1px 5px; border-radius: 4px }
pre { background: var(--stripe); padding: 12px 14px; border-radius: 8px; overflow-x: auto }
pre code { padding: 0; background: none }
.wide { overflow-x: auto; margin: 14px 0; border: 1px solid var(--line); border-radius: 8px; background: var(--card) }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: 6px 12px; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--soft); font-weight: 600; white-space: nowrap }
tr:last-child td { border-bottom: 0 }
td strong { white-space: nowrap }
tbody tr:nth-child(even) { background: var(--stripe) }
figure { margin: 16px 0; padding: 12px; background: var(--card); border: 1px solid var(--line); border-radius: 8px }
figure > svg { display: block; width: 100%; max-width: 860px; height: auto; margin: 0 auto; fill: var(--soft) }
figure > svg[viewBox^='0 0 1440'] { max-width: none }
nav a { margin-right: 14px; white-space: nowrap }
";

/// Makes the page. `plot` gives the text of an SVG file by its name.
pub(super) fn page(title: &str, markdown: &str, plot: &dyn Fn(&str) -> Option<String>) -> String {
    let mut body = String::new();
    let mut contents = String::new();
    let lines: Vec<&str> = markdown.lines().collect();
    let mut at = 0;
    while at < lines.len() {
        at += block(&lines[at..], &mut body, &mut contents, plot);
    }
    let nav = if contents.is_empty() { String::new() } else { format!("<nav>{contents}</nav>\n") };
    // The list of suites stands behind the title, which is the first line.
    let body = match body.split_once("</h1>\n") {
        Some((head, rest)) => format!("{head}</h1>\n{nav}{rest}"),
        None => format!("{nav}{body}"),
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<main>\n{body}</main>\n</body>\n</html>\n",
        escape(title)
    )
}

/// Writes the block that the lines begin with; gives how many lines it took.
fn block(lines: &[&str], body: &mut String, contents: &mut String, plot: &dyn Fn(&str) -> Option<String>) -> usize {
    let line = lines[0].trim_end();
    let run = |of: &dyn Fn(&str) -> bool| lines.iter().take_while(|line| of(line)).count().max(1);
    if line.trim().is_empty() {
        return 1;
    }
    if let Some((level, text)) = heading(line) {
        let anchor = anchor(text);
        if level == 2 {
            let _ = write!(contents, "<a href=\"#{anchor}\">{}</a>", inline(text));
        }
        let _ = writeln!(body, "<h{level} id=\"{anchor}\">{}</h{level}>", inline(text));
        return 1;
    }
    if line.starts_with("```") {
        let inside = lines[1..].iter().take_while(|line| !line.starts_with("```")).count();
        let code = lines[1..=inside].iter().map(|line| escape(line)).collect::<Vec<_>>().join("\n");
        let _ = writeln!(body, "<pre><code>{code}</code></pre>");
        return (inside + 2).min(lines.len());
    }
    if let Some((alt, file)) = image(line) {
        let svg = plot(file).filter(|text| text.trim_start().starts_with("<svg"));
        let shown = svg.unwrap_or_else(|| format!("<p>{} ({})</p>", escape(alt), escape(file)));
        let _ = writeln!(body, "<figure>{}</figure>", shown.trim());
        return 1;
    }
    if line.starts_with('|') {
        let rows = run(&|line| line.starts_with('|'));
        table(&lines[..rows], body);
        return rows;
    }
    if line.starts_with("- ") {
        let items = run(&|line| line.starts_with("- "));
        let list = lines[..items].iter().map(|item| format!("<li>{}</li>", inline(&item[2..]))).collect::<String>();
        let _ = writeln!(body, "<ul>{list}</ul>");
        return items;
    }
    let begins_block = |line: &str| {
        line.trim().is_empty()
            || line.starts_with(['|', '#'])
            || line.starts_with("- ")
            || line.starts_with("```")
            || image(line).is_some()
    };
    let rows = run(&|line| !begins_block(line));
    let _ = writeln!(body, "<p>{}</p>", inline(&lines[..rows].join(" ")));
    rows
}

fn heading(line: &str) -> Option<(usize, &str)> {
    let level = line.chars().take_while(|one| *one == '#').count();
    let text = line[level..].strip_prefix(' ')?;
    (1..=4).contains(&level).then_some((level, text.trim()))
}

fn anchor(text: &str) -> String {
    let one = |one: char| if one.is_ascii_alphanumeric() { one.to_ascii_lowercase() } else { '-' };
    text.chars().map(one).collect::<String>().trim_matches('-').to_owned()
}

/// An image that is alone on its line: its words and its file.
fn image(line: &str) -> Option<(&str, &str)> {
    let (alt, rest) = line.trim().strip_prefix("![")?.split_once("](")?;
    Some((alt, rest.strip_suffix(')')?))
}

fn table(lines: &[&str], body: &mut String) {
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim().trim_start_matches('|');
        line.strip_suffix('|').unwrap_or(line).split('|').map(|cell| inline(cell.trim())).collect()
    };
    let is_rule = |line: &str| line.chars().all(|one| matches!(one, '|' | '-' | ':' | ' '));
    let mut rows = lines.iter().filter(|line| !is_rule(line));
    let head: String =
        rows.next().map(|line| cells(line)).unwrap_or_default().iter().map(|cell| format!("<th>{cell}</th>")).collect();
    body.push_str("<div class=\"wide\"><table>\n");
    let _ = writeln!(body, "<thead><tr>{head}</tr></thead>\n<tbody>");
    for line in rows {
        let row: String = cells(line).iter().map(|cell| format!("<td>{cell}</td>")).collect();
        let _ = writeln!(body, "<tr>{row}</tr>");
    }
    body.push_str("</tbody></table></div>\n");
}

/// Text with code, bold and links. What has no partner is shown as it is.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '*', '[']) {
        out.push_str(&escape(&rest[..at]));
        rest = &rest[at..];
        let (shown, taken) = marked(rest).unwrap_or_else(|| (escape(&rest[..1]), 1));
        out.push_str(&shown);
        rest = &rest[taken..];
    }
    out.push_str(&escape(rest));
    out
}

/// What a mark at the beginning of the text stands for, and how long it is.
fn marked(text: &str) -> Option<(String, usize)> {
    if let Some(inner) = text.strip_prefix('`') {
        let end = inner.find('`')?;
        return Some((format!("<code>{}</code>", escape(&inner[..end])), end + 2));
    }
    if let Some(inner) = text.strip_prefix("**") {
        let end = inner.find("**")?;
        return Some((format!("<strong>{}</strong>", inline(&inner[..end])), end + 4));
    }
    let (words, rest) = text.strip_prefix('[')?.split_once("](")?;
    let end = rest.find(')')?;
    let target = &rest[..end];
    // No scripts: only what leads to a page.
    let leads = target.starts_with("https://") || target.starts_with("http://") || target.starts_with('#');
    let shown = if leads { format!("<a href=\"{}\">{}</a>", escape(target), inline(words)) } else { inline(words) };
    Some((shown, 1 + words.len() + 2 + end + 1))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(markdown: &str) -> String {
        let plot = |name: &str| (name == "a.svg").then(|| "<svg id=\"a\"></svg>".to_owned());
        let page = page("t", markdown, &plot);
        let (_, main) = page.split_once("<main>\n").unwrap();
        main.split_once("</main>").unwrap().0.to_owned()
    }

    #[test]
    fn tables_code_and_bold_are_shown_as_such() {
        let text = "| case | value |\n|---|---|\n| a<b | **3** `x` |\n";
        let expected = "<div class=\"wide\"><table>\n<thead><tr><th>case</th><th>value</th></tr></thead>\n<tbody>\n\
                        <tr><td>a&lt;b</td><td><strong>3</strong> <code>x</code></td></tr>\n</tbody></table></div>\n";
        assert_eq!(body(text), expected);
    }

    #[test]
    fn plots_are_inside_and_one_that_is_missing_is_named() {
        let shown = body("![one](a.svg)\n![two](b.svg)\n");
        assert_eq!(shown, "<figure><svg id=\"a\"></svg></figure>\n<figure><p>two (b.svg)</p></figure>\n");
    }

    #[test]
    fn nothing_in_the_text_becomes_html() {
        let shown = body("<script>alert(1)</script> [x](javascript:alert) 2 * 3 [open `un\n");
        assert_eq!(shown, "<p>&lt;script&gt;alert(1)&lt;/script&gt; x 2 * 3 [open `un</p>\n");
    }

    #[test]
    fn suites_can_be_jumped_to() {
        let shown = body("# Title\n\nwords\nand more\n\n## Suite `core`\n");
        let expected = "<h1 id=\"title\">Title</h1>\n<nav><a href=\"#suite--core\">Suite <code>core</code></a></nav>\n<p>words and more</p>\n\
                        <h2 id=\"suite--core\">Suite <code>core</code></h2>\n";
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_page_asks_nobody_for_anything() {
        let page = page("t", "# T\n\n![one](a.svg)\n", &|_| None);
        assert!(!page.contains("src=") && !page.contains("@import") && !page.contains("url("), "{page}");
    }
}
