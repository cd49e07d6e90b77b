//! Lengths that a reader can hold: files, functions, parameter lists.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Finding;
use super::sources::Source;

/// Lines of a file, tests not counted.
const FILE_LINES: usize = 600;
/// Lines of a file with everything.
const FILE_LINES_WITH_TESTS: usize = 1000;
/// Lines of a function from its signature to its closing brace.
const FUNCTION_LINES: usize = 70;
/// Parameters of a function, `self` not counted.
const PARAMETERS: usize = 5;

/// Finds what is too long.
pub fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (lines, limit, which) in [
        (source.product_lines(), FILE_LINES, " without tests"),
        (source.lines.len(), FILE_LINES_WITH_TESTS, ""),
    ] {
        if lines > limit {
            let message = format!("{lines} lines{which}, at most {limit}: split it by concept");
            findings.push(Finding { file: source.path.clone(), line: limit, message });
        }
    }
    let mut functions = Functions { file: &source.path, findings };
    functions.visit_file(&source.syntax);
    functions.findings
}

struct Functions<'a> {
    file: &'a str,
    findings: Vec<Finding>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first, last) = (signature.span().start().line, block.span().end().line);
        let lines = last + 1 - first;
        if lines > FUNCTION_LINES {
            let limit = FUNCTION_LINES;
            self.find(signature, format!("has {lines} lines, at most {limit}: extract its steps"));
        }
        let typed = |input: &&syn::FnArg| matches!(input, syn::FnArg::Typed(_));
        let parameters = signature.inputs.iter().filter(typed).count();
        if parameters > PARAMETERS {
            let limit = PARAMETERS;
            self.find(
                signature,
                format!("has {parameters} parameters, at most {limit}: group them in a struct"),
            );
        }
    }

    fn find(&mut self, signature: &syn::Signature, what: String) {
        let line = signature.span().start().line;
        let message = format!("fn {} {what}", signature.ident);
        self.findings.push(Finding { file: self.file.to_owned(), line, message });
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.measure(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.measure(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::super::sources::Tree;
    use super::*;

    fn findings(text: &str) -> Vec<Finding> {
        let tree = Tree::of(&[("a/src/x.rs", text)]);
        check(tree.source("a/src/x.rs").unwrap())
    }

    fn function(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    #[test]
    fn functions_end_at_seventy_lines() {
        assert_eq!(findings(&function(FUNCTION_LINES)), []);
        let found = findings(&format!("\n{}", function(FUNCTION_LINES + 1)));
        assert_eq!(found[0].line, 2);
        assert_eq!(found[0].message, "fn long has 71 lines, at most 70: extract its steps");
        let method = format!("impl A {{\n{}}}\n", function(FUNCTION_LINES + 1));
        assert_eq!(findings(&method).len(), 1);
    }

    #[test]
    fn files_end_at_six_hundred_lines_without_tests() {
        let product = "const A: u8 = 1;\n".repeat(FILE_LINES);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(390));
        assert_eq!(findings(&format!("{product}{tests}")), []);
        assert_eq!(findings(&format!("{product}const B: u8 = 1;\n")).len(), 1);
        assert_eq!(findings(&format!("{product}{tests}\n\n\n\n\n\n\n\n")).len(), 2);
    }

    #[test]
    fn five_parameters_and_self() {
        assert_eq!(findings("impl A { fn f(&self, a: A, b: A, c: A, d: A, e: A) {} }"), []);
        assert_eq!(findings("fn f(a: A, b: A, c: A, d: A, e: A, f: A) {}").len(), 1);
    }
}
