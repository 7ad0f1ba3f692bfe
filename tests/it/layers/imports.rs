//! Finds the imports between the files of a source tree in their text.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The path of a module, such as `["biz", "charge"]`. The path of the root is empty.
pub type Module = Vec<String>;

/// The imports of a file.
#[derive(Debug, Default)]
pub struct Imports {
    /// The files of this tree that define the names it uses.
    pub files: BTreeSet<Module>,
    /// The first segments of all other paths: crates.
    pub crates: BTreeSet<String>,
}

/// The files of a source tree.
pub struct Sources(BTreeMap<Module, Imports>);

impl Sources {
    /// Reads a tree whose root is `lib.rs`, without binaries and tests.
    pub fn read(root: &Path) -> Self {
        let mut texts = BTreeMap::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.extend((!path.ends_with("bin") && !path.ends_with("tests")).then_some(path));
                } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("tests.rs") {
                    texts.insert(module_of(path.strip_prefix(root).unwrap()), fs::read_to_string(&path).unwrap());
                }
            }
        }
        Self::of_texts(texts)
    }

    /// Reads the imports from the text of each module.
    pub fn of_texts(texts: BTreeMap<Module, String>) -> Self {
        let files: BTreeMap<Module, File> =
            texts.iter().map(|(module, text)| (module.clone(), File::of(text))).collect();
        let resolver = Resolver { files: &files };
        Self(files.iter().map(|(module, file)| (module.clone(), resolver.imports_of(module, file))).collect())
    }

    pub fn files(&self) -> impl Iterator<Item = (&Module, &Imports)> {
        self.0.iter()
    }

    /// One circle for each group of files with circles, as `a -> b`.
    pub fn circles(&self) -> Vec<String> {
        let mut left: BTreeMap<&Module, BTreeSet<&Module>> =
            self.0.iter().map(|(file, imports)| (file, imports.files.iter().collect())).collect();
        let mut circles = Vec::new();
        loop {
            // A file that imports no remaining file is in no circle.
            let ends: Vec<&Module> =
                left.iter().filter(|(_, imports)| imports.is_empty()).map(|(file, _)| *file).collect();
            for end in &ends {
                left.remove(end);
                left.values_mut().for_each(|imports| {
                    imports.remove(end);
                });
            }
            if !ends.is_empty() {
                continue;
            }
            let Some((mut file, _)) = left.first_key_value() else { return circles };
            let mut walk: Vec<&Module> = Vec::new();
            while !walk.contains(file) {
                walk.push(file);
                file = left[file].first().unwrap();
            }
            let circle = walk.split_off(walk.iter().position(|seen| seen == file).unwrap());
            circles.push(circle.iter().map(|file| file.join("::")).collect::<Vec<_>>().join(" -> "));
            for file in circle {
                left.remove(file);
                left.values_mut().for_each(|imports| {
                    imports.remove(file);
                });
            }
        }
    }
}

/// Whether a module is `prefix`, such as `data::mysql`, or is inside it.
pub fn starts_with(module: &[String], prefix: &str) -> bool {
    let prefix: Vec<&str> = prefix.split("::").collect();
    module.len() >= prefix.len() && prefix.iter().zip(module).all(|(prefix, name)| prefix == name)
}

fn module_of(path: &Path) -> Module {
    let path: PathBuf = path.with_extension("");
    let mut module: Module = path.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|name| name == "mod" || name == "lib") {
        module.pop();
    }
    module
}

/// A name that a `use` imports.
struct Use {
    path: Vec<String>,
    name: String,
    is_public: bool,
}

/// The parsed text of a file.
struct File {
    uses: Vec<Use>,
    /// Paths with at least two segments outside of `use`.
    paths: BTreeSet<Vec<String>>,
    /// All names outside of `use`.
    names: BTreeSet<String>,
}

impl File {
    fn of(text: &str) -> Self {
        let mut code = code_of(text);
        if let Some(tests) = code.find("#[cfg(test)]\nmod ") {
            code.truncate(tests);
        }
        let (mut uses, mut rest) = (Vec::new(), String::new());
        let mut lines = code.lines();
        while let Some(line) = lines.next() {
            let Some((visibility, tree)) = use_of(line) else {
                rest.push_str(line);
                rest.push('\n');
                continue;
            };
            let mut tree = tree.to_owned();
            while !tree.contains(';') {
                tree.push_str(lines.next().expect("a use without an end"));
            }
            let tree = tree.trim_end().trim_end_matches(';');
            for mut path in leaves(tree) {
                let last = path.pop().unwrap();
                let (last, name) = last.split_once(" as ").unwrap_or((&last, &last));
                let name = if name == "self" { path.last().unwrap().clone() } else { name.to_owned() };
                path.extend((last != "self").then(|| last.to_owned()));
                uses.push(Use { path, name, is_public: !visibility.is_empty() });
            }
        }
        let is_part = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
        let words = rest.split(|letter| !is_part(letter)).map(|word| word.trim_matches(':'));
        let paths: BTreeSet<Vec<String>> = words
            .map(|word| word.split("::").map(str::to_owned).collect())
            .filter(|path: &Vec<_>| !path[0].is_empty())
            .collect();
        let names = paths.iter().flatten().cloned().collect();
        Self { uses, paths: paths.into_iter().filter(|path| path.len() > 1).collect(), names }
    }
}

/// The visibility and the tree of a line that begins a `use`.
fn use_of(line: &str) -> Option<(&str, &str)> {
    let (visibility, tree) = line.trim_start().split_once("use ")?;
    let visibility = visibility.trim_end();
    let is_one = matches!(visibility, "" | "pub") || visibility.starts_with("pub(") && visibility.ends_with(')');
    is_one.then_some((visibility, tree))
}

/// The paths in `a::{b, c::{d, e as f}}`.
fn leaves(tree: &str) -> Vec<Vec<String>> {
    let tree = tree.trim();
    let Some((prefix, inner)) = tree.split_once('{') else {
        return vec![tree.split("::").map(|name| name.trim().to_owned()).collect()];
    };
    let prefix: Vec<String> =
        prefix.split("::").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
    let inner = inner.trim_end().strip_suffix('}').expect("a tree without an end");
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for letter in inner.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(letter);
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| leaves(part)).map(|leaf| prefix.iter().cloned().chain(leaf).collect()).collect()
}

/// The text without comments and without the content of strings.
fn code_of(text: &str) -> String {
    let (mut code, mut letters) = (String::new(), text.chars().peekable());
    while let Some(letter) = letters.next() {
        match letter {
            '/' if letters.peek() == Some(&'/') => {
                while letters.peek().is_some_and(|next| *next != '\n') {
                    letters.next();
                }
            }
            // A quote in a char literal begins no string.
            '\'' if letters.peek() == Some(&'"') => drop(letters.next()),
            '"' => {
                while let Some(inside) = letters.next().filter(|inside| *inside != '"') {
                    if inside == '\\' {
                        letters.next();
                    }
                }
            }
            letter => code.push(letter),
        }
    }
    code
}

struct Resolver<'f> {
    files: &'f BTreeMap<Module, File>,
}

impl Resolver<'_> {
    fn imports_of(&self, module: &Module, file: &File) -> Imports {
        let mut imports = Imports::default();
        // A re-exported name that is not used here counts for the file that imports it from here.
        let used = file.uses.iter().filter(|used| !used.is_public || file.names.contains(&used.name));
        for path in used.map(|used| &used.path).chain(&file.paths) {
            match self.absolute(module, path) {
                Ok(path) => drop(imports.files.insert(self.origin(path))),
                Err(name) => drop(imports.crates.insert(name)),
            }
        }
        imports.files.remove(module);
        imports
    }

    /// The path from the root, or the name of another crate.
    fn absolute(&self, module: &Module, path: &[String]) -> Result<Vec<String>, String> {
        let mut base = module.clone();
        let mut rest = path;
        match path[0].as_str() {
            "crate" => {
                base.clear();
                rest = &path[1..];
            }
            "self" | "super" => {
                while let Some(step) = rest.first().filter(|name| ["self", "super"].contains(&name.as_str())) {
                    if step == "super" {
                        base.pop();
                    }
                    rest = &rest[1..];
                }
            }
            first => {
                let child: Module = base.iter().cloned().chain([first.to_owned()]).collect();
                if !self.files.contains_key(&child) {
                    let imported = self.files[module].uses.iter().find(|used| used.name == first);
                    let Some(imported) = imported.filter(|used| used.path[0] != first) else {
                        return Err(first.to_owned());
                    };
                    let path = imported.path.iter().chain(&path[1..]).cloned().collect::<Vec<_>>();
                    return self.absolute(module, &path);
                }
            }
        }
        base.extend_from_slice(rest);
        Ok(base)
    }

    /// The file that defines the item of a path from the root.
    fn origin(&self, mut path: Vec<String>) -> Module {
        loop {
            let depth = (0..=path.len()).rev().find(|depth| self.files.contains_key(&path[..*depth])).unwrap();
            let (module, rest) = path.split_at(depth);
            let Some((name, behind)) = rest.split_first() else { return path };
            let handed_on = self.files[module].uses.iter().find(|used| used.name == *name);
            let from = handed_on.and_then(|used| self.absolute(&module.to_vec(), &used.path).ok());
            match from {
                Some(from) => path = from.into_iter().chain(behind.iter().cloned()).collect(),
                None => return module.to_vec(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(texts: &[(&str, &str)]) -> Sources {
        let module = |name: &str| name.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let root = [("", "mod a;")];
        Sources::of_texts(root.iter().chain(texts).map(|(name, text)| (module(name), (*text).to_owned())).collect())
    }

    fn imports_of(sources: &Sources, file: &str) -> Vec<String> {
        let (_, imports) = sources.files().find(|(module, _)| module.join("::") == file).unwrap();
        let files = imports.files.iter().map(|file| file.join("::"));
        files.chain(imports.crates.iter().map(|name| format!("crate {name}"))).collect()
    }

    #[test]
    fn a_reexported_name_counts_for_the_file_that_defines_it() {
        let sources = sources(&[
            ("a", "mod x; mod y;\npub use self::x::{X, Other as More};\n"),
            ("a::x", "pub struct X;\npub struct Other;\n"),
            ("a::y", "use super::X;\nuse crate::{a::{More}};\n"),
        ]);
        assert_eq!(imports_of(&sources, "a"), [""; 0]);
        assert_eq!(imports_of(&sources, "a::y"), ["a::x"]);
        assert_eq!(sources.circles(), [""; 0]);
    }

    #[test]
    fn paths_in_the_code_count_and_comments_and_tests_do_not() {
        let sources = sources(&[
            ("a", "mod x; mod y;\n"),
            (
                "a::x",
                "// crate::a::y::Y\nuse tokio::sync;\nfn f() { super::y::f(\"crate::a\"); sync::g(); 'x: loop {} }\n#[cfg(test)]\nmod tests { use crate::a::A; }",
            ),
            ("a::y", "pub fn f() {}"),
        ]);
        assert_eq!(imports_of(&sources, "a::x"), ["a::y", "crate tokio"]);
    }

    #[test]
    fn a_circle_is_found_through_a_parent_and_through_others() {
        let parent = sources(&[("a", "mod x;\nuse self::x::X;\n"), ("a::x", "use super::A;\npub struct X;\n")]);
        assert_eq!(parent.circles(), ["a -> a::x"]);
        let handed_on_and_used = sources(&[
            ("a", "mod x;\npub use self::x::X;\npub struct A(X);\n"),
            ("a::x", "use super::A;\npub struct X;\n"),
        ]);
        assert_eq!(handed_on_and_used.circles(), ["a -> a::x"]);
        let three = sources(&[
            ("a", "mod x; mod y; mod z;\n"),
            ("a::x", "use crate::a::y::{self};\n"),
            ("a::y", "fn f() { super::z::g() }\n"),
            ("a::z", "use super::{x::X, y::Y};\n"),
        ]);
        assert_eq!(three.circles().len(), 1);
    }
}
