//! Holds what the compiler cannot check of the architecture: the floors of the crate, the one address of `libc`, and that
//! the compiler has been told to check the rest. Reads the sources as text, so that a wrong import fails here with its
//! line, and not in a review.
//!
//! The compiler checks that `unsafe` stays in `sys` (`deny(unsafe_code)`), and clippy that each block has its SAFETY note.
//!
//! Imports point downwards, or to the left on their own floor.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `reactor/src`, from the lowest floor up. A module may import earlier modules.
const FLOORS: [&[&str]; 8] = [
    &["operations", "token", "address", "error", "reason", "time"],
    &[
        "limits",
        "socket_options",
        "shared",
        "budget",
        "buffer",
        "random",
        "recorder",
        "stats",
        "timer",
        "topics",
        "published",
        "protocols",
    ],
    &["sys"],
    &["link", "layer", "driver"],
    &[
        "mailbox", "lookup", "cluster", "outbox", "handle", "outgoing", "context", "handler", "host", "service",
        "settings", "pressure", "report",
    ],
    &["event_loop"],
    &["runner"],
    &["application", "guide", "testing", "sim", "fuzzing", "misuse", "orders"],
];

fn place(module: &str) -> Option<(usize, usize)> {
    FLOORS
        .iter()
        .enumerate()
        .find_map(|(floor, modules)| modules.iter().position(|name| *name == module).map(|position| (floor, position)))
}

/// A source file, and what of it is code: comments and literals are blanked, line by line.
struct Source {
    name: String,
    lines: Vec<String>,
    code: Vec<String>,
}

impl Source {
    fn of(name: &str, text: &str) -> Self {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        Source { name: name.to_owned(), code: blanked(text).lines().map(str::to_owned).collect(), lines }
    }

    /// The module at the top of the crate that this file belongs to.
    fn module(&self) -> &str {
        let first = self.name.split('/').next().unwrap_or(&self.name);
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The code up to the unit tests, which stand at the end of a file and may look anywhere.
    fn before_tests(&self) -> &[String] {
        let tests = self.code.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod tests"));
        &self.code[..tests.unwrap_or(self.code.len())]
    }

    fn at(&self, line: usize) -> String {
        format!("{}:{}: {}", self.name, line + 1, self.lines[line].trim())
    }
}

/// The text with every comment, string and character literal replaced by blanks, line breaks kept.
fn blanked(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let blank = |out: &mut String, part: &str| out.extend(part.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
    while let Some(first) = rest.chars().next() {
        let word_before = out.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let raw = rest.strip_prefix('b').unwrap_or(rest).strip_prefix('r').filter(|_| !word_before);
        let raw = raw.and_then(|raw| {
            let hashes = raw.len() - raw.trim_start_matches('#').len();
            raw[hashes..].starts_with('"').then_some(hashes)
        });
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(hashes) = raw {
            let ending = format!("\"{}", "#".repeat(hashes));
            let start = rest.find('"').expect("it is raw") + 1;
            rest[start..].find(&ending).map_or(rest.len(), |end| start + end + ending.len())
        } else if first == '"' {
            string_length(rest)
        } else if first == '\'' {
            character_length(rest)
        } else {
            0
        };
        if length == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            blank(&mut out, &rest[..length]);
            rest = &rest[length..];
        }
    }
    out
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// 0 for a lifetime.
fn character_length(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[3..].find('\'').map_or(0, |end| end + 4),
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

/// Where `word` stands by itself.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word))
}

/// The first words of all paths that begin at the crate's root: `a` and `b` of `crate::a::X` and `use crate::{a::X,
/// b}`.
fn imports(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let word = |text: &str| -> String {
            text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        let Some(group) = rest.strip_prefix('{') else {
            found.push(word(rest));
            continue;
        };
        let (mut depth, mut start) = (0, 0);
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    found.push(word(&group[start..at]));
                    start = at + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    found.retain(|name| !name.is_empty());
    found
}

/// Imports that point up or to the right, or that nobody can place.
fn wrong_imports(source: &Source) -> Vec<String> {
    let here = source.module();
    let mut wrong = Vec::new();
    let Some(mine) = place(here) else {
        return vec![format!("{}: the module `{here}` is on no floor", source.name)];
    };
    // Macro paths and visibility (`pub(crate)`) are no imports: `crate::` is always followed by a path.
    let code = source.before_tests();
    for (number, line) in code.iter().enumerate().filter(|(_, line)| line.contains("crate::")) {
        // A group may go on over several lines.
        let open = line.matches('{').count() > line.matches('}').count() && line.contains("crate::{");
        let text = if open { code[number..].join(" ") } else { line.clone() };
        let names = if open { imports(&text[..text.find("};").unwrap_or(text.len())]) } else { imports(&text) };
        for name in names {
            match place(&name) {
                _ if name == here => {}
                Some(theirs) if theirs < mine => {}
                Some(_) => wrong.push(format!("{}: `{name}` is above `{here}`", source.at(number))),
                None => wrong.push(format!("{}: `{name}` is on no floor", source.at(number))),
            }
        }
    }
    wrong
}

/// Lines that name `libc`.
fn libc_uses(source: &Source) -> Vec<String> {
    let lines = source.code.iter().enumerate();
    lines
        .filter(|(_, line)| has_word(line, "libc"))
        .map(|(number, _)| format!("{}: only `sys` may", source.at(number)))
        .collect()
}

/// The item below each attribute that lets unsafe code in.
fn lets_unsafe_in(source: &Source) -> Vec<&str> {
    let lines = source.code.iter().enumerate();
    let attributes = lines.filter(|(_, line)| has_word(line, "unsafe_code") && !line.contains("deny("));
    attributes.map(|(number, _)| source.code.get(number + 1).map_or("", |line| line.trim())).collect()
}

/// Every Rust file under `root`, named from there.
fn sources(root: &Path) -> Vec<Source> {
    let mut directories = vec![root.to_owned()];
    let mut sources = Vec::new();
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
        for entry in entries {
            let path = entry.expect("the listing goes on").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("it is below").display().to_string();
                sources.push(Source::of(&name, &fs::read_to_string(&path).expect("a source file is text")));
            }
        }
    }
    sources.sort_by(|one, other| one.name.cmp(&other.name));
    assert!(!sources.is_empty(), "nothing to read in {}", root.display());
    sources
}

fn reactor() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn none(found: Vec<String>) {
    let mut text = String::new();
    found.iter().for_each(|line| writeln!(text, "  {line}").expect("a string takes all"));
    assert!(found.is_empty(), "\n{text}");
}

#[test]
fn imports_point_downwards_or_to_the_left() {
    let sources = sources(&reactor().join("src"));
    none(sources.iter().filter(|source| source.name != "lib.rs").flat_map(wrong_imports).collect());
}

#[test]
fn libc_has_one_address() {
    let (src, examples) = (sources(&reactor().join("src")), sources(&reactor().join("examples")));
    let outside = src.iter().filter(|source| source.module() != "sys").chain(&examples);
    none(outside.flat_map(libc_uses).collect());
    none(sources(&reactor().join("tests")).iter().flat_map(libc_uses).collect());
}

#[test]
fn the_compiler_denies_unsafe_code_everywhere_but_in_sys() {
    let sources = sources(&reactor().join("src"));
    let root = sources.iter().find(|source| source.name == "lib.rs").expect("a crate has a root");
    assert!(root.code.iter().any(|line| line == "#![deny(unsafe_code)]"), "lib.rs does not");
    let allowed: Vec<_> = sources.iter().flat_map(lets_unsafe_in).collect();
    assert_eq!(allowed, ["mod sys;"]);
    for crate_root in ["../services/src/lib.rs", "../sequential/src/lib.rs", "../bin/main.rs"] {
        let text =
            fs::read_to_string(reactor().join(crate_root)).unwrap_or_else(|error| panic!("{crate_root}: {error}"));
        assert!(blanked(&text).contains("#![forbid(unsafe_code)]"), "{crate_root} does not");
    }
    let workspace = fs::read_to_string(reactor().join("../Cargo.toml")).expect("the workspace has a manifest");
    for lint in ["unsafe_code = \"deny\"", "undocumented_unsafe_blocks = \"deny\""] {
        assert!(workspace.lines().any(|line| line == lint), "the workspace's lints lack {lint}");
    }
}

/// Lines that a source file may have before its unit tests: a file is read in one sitting.
const LINES_MAX: usize = 500;

fn is_test_or_model(name: &str) -> bool {
    name.split('/').any(|part| ["tests", "tests.rs", "model", "model.rs"].contains(&part))
}

/// Sources of the three rooms that must be split when they grow: tests and models are long lists, and may be.
fn too_long(source: &Source) -> Option<String> {
    let lines = source.before_tests().len();
    (!is_test_or_model(&source.name) && lines > LINES_MAX)
        .then(|| format!("{}: {lines} lines, and {LINES_MAX} at most", source.name))
}

#[test]
fn no_source_file_has_more_than_500_lines_without_its_tests() {
    let rooms = ["src", "../services/src", "../sequential/src", "../bin"];
    none(rooms.iter().flat_map(|room| sources(&reactor().join(room))).filter_map(|source| too_long(&source)).collect());
}

/// Largest number of lines of the loop itself, comments included: a reader reads the loop in one sitting. 2,500 are for the loop, and 120 for the
/// seam at which a layer (TLS) is put between a connection and its socket.
const SITTING_MAX: usize = 2620;

/// Whether a source file is a part of the loop itself. Several loops (`exchange`) and terminals of other jobs are subjects of their own,
/// which a reader of the loop need not know.
fn is_in_the_sitting(name: &str) -> bool {
    let is_left_out = ["event_loop/exchange.rs", "driver/readiness/terminals.rs"].contains(&name);
    let is_of_sys = ["mod", "poller", "epoll", "select"].iter().any(|file| name == format!("sys/{file}.rs"));
    !is_left_out
        && !is_test_or_model(name)
        && (is_of_sys || name.starts_with("event_loop/") || name.starts_with("driver/"))
}

#[test]
fn the_loop_itself_is_read_in_one_sitting() {
    let sources = sources(&reactor().join("src"));
    let files = sources.iter().filter(|source| is_in_the_sitting(&source.name));
    let lengths: Vec<_> = files.map(|source| (&source.name, source.before_tests().len())).collect();
    let all: usize = lengths.iter().map(|(_, lines)| lines).sum();
    assert!(all <= SITTING_MAX, "{all} lines, and {SITTING_MAX} at most: {lengths:?}");
    assert!(lengths.len() > 10, "the files of the loop have other names: {lengths:?}");
}

/// Fields that a struct may have whose methods stand in several files: a reader keeps them all in mind.
const FIELDS_MAX: usize = 16;

/// The number of fields of the struct `name`, each on a line of its own.
fn fields(source: &Source, name: &str) -> usize {
    let lines = source.code.iter().skip_while(|line| !(has_word(line, "struct") && has_word(line, name)));
    let body = lines.skip(1).take_while(|line| !line.starts_with('}'));
    body.filter(|line| line.trim_end().ends_with(',') && line.contains(':')).count()
}

#[test]
fn the_loop_has_few_fields() {
    let sources = sources(&reactor().join("src"));
    let source = sources.iter().find(|source| source.name == "event_loop/mod.rs").expect("the loop has a file");
    let count = fields(source, "EventLoop");
    assert!((1..=FIELDS_MAX).contains(&count), "{count} fields, and {FIELDS_MAX} at most");
}

/// Parts of the paths of files that a build without features leaves out.
const NOT_SHIPPED: [&str; 9] =
    ["test", "model", "seeds", "sim/", "sys/simulated", "sys/chaos", "random", "fuzzing", "operations"];

/// Lines of code that a build without features compiles: no comments, no blank lines, no tests.
fn lines_shipped() -> usize {
    let sources = sources(&reactor().join("src"));
    let shipped = sources.iter().filter(|source| !NOT_SHIPPED.iter().any(|part| source.name.contains(part)));
    shipped.flat_map(Source::before_tests).filter(|line| !line.trim().is_empty()).count()
}

/// The number that stands before "lines" in the first sentence that has one.
fn lines_stated(text: &str) -> Option<usize> {
    let (before, _) = text.split_once(" lines")?;
    before.rsplit(' ').next()?.replace(',', "").parse().ok()
}

#[test]
fn the_number_of_lines_that_the_first_sentences_state_is_true() {
    let shipped = lines_shipped();
    for page in ["src/lib.rs", "Cargo.toml", "README.md", "../README.md"] {
        let text = fs::read_to_string(reactor().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        let stated = lines_stated(&text).unwrap_or_else(|| panic!("{page} states no number of lines"));
        assert!(stated.abs_diff(shipped) <= stated / 10, "{page} states {stated} lines, and there are {shipped}");
    }
}

// ---- the checker itself, on samples that are wrong -----------------------------------------------------------------

#[test]
fn an_import_that_points_up_or_right_or_nowhere_is_found() {
    let wrong = |name: &str, text: &str| wrong_imports(&Source::of(name, text)).len();
    assert_eq!(wrong("timer.rs", "use crate::time::Time;\nuse crate::token::X;\n"), 0);
    assert_eq!(wrong("timer.rs", "use crate::link::Link;\n"), 1, "up");
    assert_eq!(wrong("link.rs", "use crate::driver::Driver;\n"), 1, "to the right");
    assert_eq!(wrong("driver/mod.rs", "use crate::link::Link;\n"), 0, "to the left");
    assert_eq!(wrong("sys/epoll.rs", "fn f(_: crate::event_loop::EventLoop) {}\n"), 1, "a path in the middle");
    assert_eq!(wrong("link.rs", "use crate::{token::X, service::{A, B}, application};\n"), 2, "in a group");
    assert_eq!(wrong("link.rs", "use crate::{\n    token::X,\n    service::A,\n};\n"), 1, "over several lines");
    assert_eq!(wrong("link.rs", "use crate::Context;\n"), 1, "through the front door");
    assert_eq!(wrong("novelty.rs", "\n"), 1, "a module without a floor");
    assert_eq!(
        wrong("link.rs", "/// [`X`](crate::service::X)\nconst A: &str = \"crate::service\"; // crate::service\n"),
        0
    );
    assert_eq!(wrong("link.rs", "#[cfg(test)]\nmod tests {\n    use crate::service::A;\n}\n"), 0);
}

#[test]
fn libc_outside_sys_is_found() {
    let found = |text: &str| libc_uses(&Source::of("link.rs", text)).len();
    assert_eq!(found("fn f() -> libc::c_int { 0 }\nuse libc::c_int;\n"), 2);
    assert_eq!(found("// libc\nlet a = \"\\\" libc\"; let b = r#\"libc\"#; let libcxx = 1;\n"), 0);
    assert_eq!(found("let quote = '\"'; libc::f::<'static>('\\''); let c = \"\";\n"), 1);
}

#[test]
fn what_lets_unsafe_code_in_is_found() {
    let found = |text: &str| lets_unsafe_in(&Source::of("lib.rs", text)).join(" ");
    assert_eq!(found("#![deny(unsafe_code)]\n#[allow(unsafe_code)]\nmod sys;\nmod link;\n"), "mod sys;");
    assert_eq!(found("#[expect(unsafe_code, reason = \"one\")]\nfn f() {}\n"), "fn f() {}");
    assert_eq!(found("// allow(unsafe_code)\nmod link;\n"), "");
}

#[test]
fn a_source_file_that_is_too_long_is_found() {
    let long = |name: &str, text: String| too_long(&Source::of(name, &text)).is_some();
    assert!(!long("link/mod.rs", "// a\n".repeat(500)));
    assert!(long("link/mod.rs", "// a\n".repeat(501)), "comments are read too");
    assert!(!long("link/tests.rs", "\n".repeat(501)));
    assert!(!long("link/model/mod.rs", "\n".repeat(501)));
    assert!(!long("link.rs", "\n".repeat(499) + "#[cfg(test)]\nmod tests {\n\n}\n"));
}

#[test]
fn the_files_of_the_loop_and_the_fields_of_a_struct_are_found() {
    for name in ["event_loop/mod.rs", "driver/readiness/batch.rs", "sys/select.rs"] {
        assert!(is_in_the_sitting(name), "{name}");
    }
    for name in ["event_loop/exchange.rs", "driver/readiness/terminals.rs", "sys/select/sets.rs", "link/mod.rs"] {
        assert!(!is_in_the_sitting(name), "{name}");
    }
    let text = "struct Other {\n    a: u8,\n}\n\npub(crate) struct One<D> {\n    // a: u8,\n    a: D,\n    pub(super) b: u8,\n}\nfn f(a: u8,\n) {}\n";
    assert_eq!(fields(&Source::of("link.rs", text), "One"), 2);
}

#[test]
fn a_number_of_lines_is_read_from_a_sentence() {
    assert_eq!(lines_stated("A small loop in 9,600 lines of Rust, of 3 lines each."), Some(9600));
    assert_eq!(lines_stated("A small loop in some lines."), None);
    assert_eq!(lines_stated("A small loop."), None);
}
