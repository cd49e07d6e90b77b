//! Words that need a reason beside them, and words that have none.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::Finding;
use super::sources::Source;

/// Crates that must not panic on what comes from outside.
const NEVER_PANIC: [&str; 3] = ["relay-core/", "relay-dataplane/", "relay-views/src/"];

/// Words of a panic message that is more than a name: it says why the value is there.
const REASON_WORDS: usize = 4;

/// Finds such words.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    search(source, source.tokens.clone(), &mut findings);
    findings
}

fn search(source: &Source, tokens: TokenStream, findings: &mut Vec<Finding>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    for (index, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => search(source, group.stream(), findings),
            TokenTree::Ident(word) => {
                let before = index.checked_sub(1).map(|before| &tokens[before]);
                let line = word.span().start().line;
                if let Some(message) =
                    objection(source, line, [before, Some(token), tokens.get(index + 1)])
                {
                    findings.push(Finding { file: source.path.clone(), line, message });
                }
            }
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// What is wrong with the middle one of three tokens.
fn objection(source: &Source, line: usize, around: [Option<&TokenTree>; 3]) -> Option<String> {
    let [before, Some(word), after] = around else { return None };
    match word.to_string().as_str() {
        word @ ("todo" | "unimplemented" | "dbg") if is_punct(after, '!') => {
            Some(format!("{word}! is for work in progress: finish it"))
        }
        "unsafe" if is_group(after, Delimiter::Brace) => {
            let justified = source.explains(line, |comment| comment.contains("SAFETY:"));
            let remedy = "say on the line above, after SAFETY:, why it is sound";
            (!justified).then(|| format!("unsafe block without a reason: {remedy}"))
        }
        word @ ("unwrap" | "expect") if is_punct(before, '.') => {
            let bound = NEVER_PANIC.iter().any(|prefix| source.path.starts_with(prefix));
            let call = is_group(after, Delimiter::Parenthesis);
            if !call || !bound || source.is_test(line) || is_reason(after) {
                return None;
            }
            let justified = source.explains(line, |comment| !comment.trim().is_empty());
            let remedy = "handle it, or say in a comment above why it cannot happen";
            (!justified).then(|| format!("{word} without a reason: {remedy}"))
        }
        _ => None,
    }
}

/// Whether a call's only argument is a sentence, as in `expect("the caller checked the length")`.
fn is_reason(call: Option<&TokenTree>) -> bool {
    let Some(TokenTree::Group(call)) = call else { return false };
    let arguments: Vec<TokenTree> = call.stream().into_iter().collect();
    match &arguments[..] {
        [TokenTree::Literal(text)] => text.to_string().split_whitespace().count() >= REASON_WORDS,
        _ => false,
    }
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn is_group(token: Option<&TokenTree>, wanted: Delimiter) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.delimiter() == wanted)
}

#[cfg(test)]
mod tests {
    use super::super::sources::Tree;
    use super::*;

    const NONE: [usize; 0] = [];

    fn lines(text: &str) -> Vec<usize> {
        let tree = Tree::of(&[("relay-core/src/x.rs", text)]);
        let findings = check(tree.source("relay-core/src/x.rs").unwrap());
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn unwrap_needs_a_reason() {
        assert_eq!(lines("fn f() {\n    a.unwrap();\n    b.expect(\"c\");\n}\n"), [2, 3]);
        assert_eq!(lines("fn f() {\n    a.expect(\"g checked the length\");\n}\n"), NONE);
        assert_eq!(lines("fn f() {\n    // Checked by g.\n    a.unwrap();\n}\n"), NONE);
        assert_eq!(lines("fn f() {\n    a.unwrap(); // Checked by g.\n}\n"), NONE);
        assert_eq!(
            lines("fn f() {\n    // Why.\n    a\n        .b()\n        .unwrap();\n}\n"),
            NONE
        );
        assert_eq!(lines("fn f() {\n    // Not this.\n    b();\n    a.unwrap();\n}\n"), [4]);
        assert_eq!(lines("fn f() {\n    assert!(a.unwrap());\n}\n"), [2]);
        assert_eq!(lines("fn f() {\n    a.unwrap_or(b);\n}\n"), NONE);
        assert_eq!(
            lines("#[cfg(test)]\nmod tests {\n    fn f() {\n        a.unwrap();\n    }\n}"),
            NONE
        );
    }

    #[test]
    fn unsafe_needs_a_reason() {
        assert_eq!(lines("fn f() {\n    unsafe { g() }\n}\n"), [2]);
        assert_eq!(lines("fn f() {\n    // SAFETY: g is fine.\n    unsafe { g() }\n}\n"), NONE);
        assert_eq!(lines("fn f() {\n    // Fine.\n    let a = unsafe { g() };\n}\n"), [3]);
        assert_eq!(lines("unsafe fn f() {}\n"), NONE);
    }

    #[test]
    fn work_in_progress_is_found() {
        assert_eq!(lines("fn f() {\n    todo!()\n}\nfn g() {\n    dbg!(1);\n}\n"), [2, 5]);
        assert_eq!(lines("// todo!\nfn f() { let todo = \"todo!\"; }\n"), NONE);
    }
}
