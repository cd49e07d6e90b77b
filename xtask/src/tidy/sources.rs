//! The files that tidy looks at, and which lines of them are tests.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, Result};
use syn::spanned::Spanned;

/// Every file of the repository that tidy reads.
#[derive(Default)]
pub struct Tree {
    /// Rust.
    pub sources: Vec<Source>,
    /// Cargo.toml and clippy.toml files: path and text.
    pub manifests: Vec<(String, String)>,
    /// Markdown: path and text.
    pub documents: Vec<(String, String)>,
    /// Every path, directories too, from the root of the repository.
    pub paths: BTreeSet<String>,
}

/// One Rust file.
pub struct Source {
    /// Path from the root of the repository.
    pub path: String,
    /// Its lines.
    pub lines: Vec<String>,
    /// Its syntax.
    pub syntax: syn::File,
    /// Its tokens: unlike the syntax, they show what is inside of macros.
    pub tokens: proc_macro2::TokenStream,
    tests: Vec<RangeInclusive<usize>>,
}

impl Tree {
    /// Reads everything below `root`.
    pub fn read(root: &Path) -> Result<Tree> {
        let mut tree = Tree::default();
        tree.walk(root, "")?;
        tree.mark_test_files();
        Ok(tree)
    }

    /// A tree of these Rust files.
    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::default();
        for (path, text) in files {
            tree.add(path, || Ok((*text).to_owned())).unwrap();
        }
        tree.mark_test_files();
        tree
    }

    /// The source at `path`.
    pub fn source(&self, path: &str) -> Option<&Source> {
        self.sources.iter().find(|source| source.path == path)
    }

    fn walk(&mut self, directory: &Path, prefix: &str) -> Result<()> {
        let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            if entry.file_type()?.is_dir() {
                // Nobody's source: build output of whatever flavour, and git's own files.
                if name == ".git" || name.starts_with("target") {
                    continue;
                }
                self.paths.insert(path.clone());
                self.walk(&entry.path(), &format!("{path}/"))?;
            } else {
                let read = || fs::read_to_string(entry.path()).context(path.clone());
                self.add(&path, read)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &str, read: impl Fn() -> Result<String>) -> Result<()> {
        self.paths.insert(path.to_owned());
        let name = path.rsplit('/').next().unwrap_or(path);
        if path.ends_with(".rs") {
            self.sources.push(Source::parse(path, &read()?)?);
        } else if path.ends_with(".md") {
            self.documents.push((path.to_owned(), read()?));
        } else if ["Cargo.toml", "clippy.toml"].contains(&name) {
            self.manifests.push((path.to_owned(), read()?));
        }
        Ok(())
    }

    /// `#[cfg(test)] mod name;` makes a test of another file, and of all below it.
    fn mark_test_files(&mut self) {
        let modules: Vec<String> = self.sources.iter().flat_map(Source::test_modules).collect();
        let is_test = |path: &str| {
            let below = |module: &String| {
                path.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with(['/', '.']))
            };
            path.split('/').any(|part| part == "tests") || modules.iter().any(below)
        };
        for source in self.sources.iter_mut().filter(|source| is_test(&source.path)) {
            source.tests = vec![1..=source.lines.len()];
        }
    }
}

impl Source {
    fn parse(path: &str, text: &str) -> Result<Source> {
        let syntax = syn::parse_file(text).with_context(|| format!("{path} does not parse"))?;
        let tokens = text.parse().map_err(|error| anyhow::anyhow!("{path}: {error}"))?;
        let tests = syntax.items.iter().filter(|item| is_test(attributes(item)));
        let tests = tests.map(|item| first_line(item)..=item.span().end().line).collect();
        let lines = text.lines().map(str::to_owned).collect();
        Ok(Source { path: path.to_owned(), lines, tests, tokens, syntax })
    }

    /// Whether `line` belongs to a test.
    pub fn is_test(&self, line: usize) -> bool {
        self.tests.iter().any(|range| range.contains(&line))
    }

    /// Number of lines that belong to no test.
    pub fn product_lines(&self) -> usize {
        (1..=self.lines.len()).filter(|line| !self.is_test(*line)).count()
    }

    /// The comment that explains `line`: at its end, or above the statement that it belongs to.
    pub fn explains(&self, line: usize, says: impl Fn(&str) -> bool) -> bool {
        let text = |line: usize| self.lines.get(line - 1).map_or("", |text| text.trim());
        let comment = |text: &str| text.find("//").is_some_and(|at| says(&text[at + 2..]));
        if comment(text(line)) {
            return true;
        }
        let mut above = line;
        while above > 1 {
            above -= 1;
            let text = text(above);
            if text.starts_with("//") {
                if comment(text) {
                    return true;
                }
            } else if text.is_empty() || text.ends_with([';', '{', '}']) {
                return false;
            }
        }
        false
    }

    fn test_modules(&self) -> Vec<String> {
        let is_root = ["/mod.rs", "/lib.rs", "/main.rs"].iter().any(|end| self.path.ends_with(end));
        let directory = match self.path.rsplit_once('/') {
            Some((directory, _)) if is_root => directory,
            _ => self.path.trim_end_matches(".rs"),
        };
        let module = |item: &syn::Item| match item {
            syn::Item::Mod(module) if module.content.is_none() && is_test(&module.attrs) => {
                Some(format!("{directory}/{}", module.ident))
            }
            _ => None,
        };
        self.syntax.items.iter().filter_map(module).collect()
    }
}

/// `#[test]` and `#[cfg(test)]`, also as one of several conditions.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let words = list.tokens.to_string();
            let mut words = words.split(|c: char| !c.is_alphanumeric() && c != '_');
            !list.tokens.to_string().starts_with("not") && words.any(|word| word == "test")
        }
        _ => false,
    })
}

fn first_line(item: &syn::Item) -> usize {
    let attributes = attributes(item).iter().map(|attribute| attribute.span().start().line);
    attributes.chain([item.span().start().line]).min().unwrap_or(1)
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_told_from_the_product() {
        let text = "fn product() {}\n\n#[cfg(test)]\nmod tests {\n    fn helper() {}\n}\n";
        let tree = Tree::of(&[("a/src/x.rs", text)]);
        let source = tree.source("a/src/x.rs").unwrap();
        assert!(!source.is_test(1) && source.is_test(3) && source.is_test(5));
        assert_eq!(source.product_lines(), 2);
    }

    #[test]
    fn a_test_module_in_a_file_of_its_own_is_a_test() {
        let tree = Tree::of(&[
            ("a/src/tcp.rs", "#[cfg(test)]\nmod harness;\nmod real;\n"),
            ("a/src/tcp/harness.rs", "fn helper() {}\n"),
            ("a/src/tcp/harness/peer.rs", "fn helper() {}\n"),
            ("a/src/tcp/real.rs", "fn product() {}\n"),
            ("tests/e2e/src/lib.rs", "fn helper() {}\n"),
        ]);
        let is_test = |path| tree.source(path).unwrap().is_test(1);
        assert!(is_test("a/src/tcp/harness.rs") && is_test("a/src/tcp/harness/peer.rs"));
        assert!(is_test("tests/e2e/src/lib.rs"));
        assert!(!is_test("a/src/tcp/real.rs"));
    }
}
