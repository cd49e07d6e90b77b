//! `xtask ebpf`: builds the XDP program and checks the object that is checked in.
//!
//! Stable Rust builds the relay with the checked-in object, so only who changes the program needs
//! its tool chain: Debian's `rustc-web`, which comes with a `core` for the BPF target, unpacked
//! aside without installing it, and bpf-linker. Both are kept below the target folder.
//!
//! The list of sources has the format of sha256sum(1), so that `sha256sum --check` reads it, too.

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};
use xtask::binaries::workspace;

/// Where the object and the list of its sources are, from the root of the repository.
const OBJECT: &str = "relay-dataplane/src/xdp/relay.bpf.o";
const SOURCES: &str = "relay-dataplane/src/xdp/relay.bpf.sources";

/// Everything that the object is made of: files, and folders of which every file counts.
const INPUTS: [&str; 5] = [
    "relay-abi/src/bucket.rs",
    "relay-abi/src/xdp.rs",
    "relay-ebpf/Cargo.lock",
    "relay-ebpf/Cargo.toml",
    "relay-ebpf/src",
];

const BPF_LINKER: &str = "0.13.0";
const BPF_TARGET: &str = "bpfel-unknown-none";

#[derive(Clone, Copy, Debug, Subcommand)]
pub enum EbpfCommand {
    /// Build the XDP program and record the sources that it was built from
    Build,
    /// Fail if the checked-in object and the sources do not belong together
    Check,
}

pub fn run(command: EbpfCommand) -> Result<()> {
    // Without "..": the compiler is told to leave this path out of what it writes.
    let root = workspace().canonicalize()?;
    match command {
        EbpfCommand::Build => build(&root),
        EbpfCommand::Check => check(&root),
    }
}

fn build(root: &Path) -> Result<()> {
    let tools = ToolChain::prepare(&target_dir(root).join("bpf-toolchain"))?;
    let built = tools.compile(root)?;
    let object = root.join(OBJECT);
    // BTF stays, DWARF goes: the kernel reads the one, and nobody the other.
    call(Command::new("llvm-strip").arg("-g").arg(&built).arg("-o").arg(&object))?;
    let list = format!(
        "# rustc-web {}, bpf-linker {BPF_LINKER}\n{}",
        tools.version,
        checksums(root, &recorded_files(root)?)?
    );
    fs::write(root.join(SOURCES), list)?;
    println!("{OBJECT}: {} bytes", fs::metadata(&object)?.len());
    Ok(())
}

fn check(root: &Path) -> Result<()> {
    let recorded = fs::read_to_string(root.join(SOURCES)).context(SOURCES)?;
    let recorded: Vec<&str> = recorded.lines().filter(|line| !line.starts_with('#')).collect();
    let actual = checksums(root, &recorded_files(root)?)?;
    let actual: Vec<&str> = actual.lines().collect();
    let differing: Vec<&str> = recorded
        .iter()
        .filter(|line| !actual.contains(line))
        .chain(actual.iter().filter(|line| !recorded.contains(line)))
        .filter_map(|line| line.split_once("  ").map(|(_, path)| path))
        .collect();
    if differing.is_empty() {
        println!("{OBJECT} belongs to its {} sources", actual.len() - 1);
        return Ok(());
    }
    let mut paths = differing;
    paths.sort_unstable();
    paths.dedup();
    bail!(
        "changed since {OBJECT} was built:\n  {}\nrun `cargo xtask ebpf build` and commit the \
         object with its list",
        paths.join("\n  ")
    )
}

fn target_dir(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// Paths of all sources and of the object, relative to the root and sorted.
fn recorded_files(root: &Path) -> Result<Vec<String>> {
    let mut files = vec![OBJECT.to_owned()];
    let mut open: Vec<String> = INPUTS.map(str::to_owned).to_vec();
    while let Some(path) = open.pop() {
        if !root.join(&path).is_dir() {
            files.push(path);
            continue;
        }
        for entry in fs::read_dir(root.join(&path))? {
            let name = entry?.file_name().into_string().ok().context("a path is not UTF-8")?;
            open.push(format!("{path}/{name}"));
        }
    }
    files.sort();
    Ok(files)
}

/// One line of sha256sum(1) for each file.
fn checksums(root: &Path, files: &[String]) -> Result<String> {
    output(Command::new("sha256sum").args(files).current_dir(root))
}

/// A compiler and a linker for the BPF target, unpacked below `folder`.
struct ToolChain {
    folder: PathBuf,
    version: String,
}

impl ToolChain {
    /// Fetches and builds what is not there yet: about 120 MB, and a minute or two.
    fn prepare(folder: &Path) -> Result<ToolChain> {
        let version = candidate("rustc-web")?;
        let tools = ToolChain { folder: folder.to_owned(), version };
        let stamp = folder.join("stamp");
        let wanted = format!("rustc-web {}, bpf-linker {BPF_LINKER}\n", tools.version);
        if fs::read_to_string(&stamp).is_ok_and(|found| found == wanted) {
            return Ok(tools);
        }
        fs::create_dir_all(folder)?;
        let llvm = llvm_of(&tools.libraries())?;
        tools.unpack_rustc(&llvm)?;
        tools.install_linker(&llvm)?;
        fs::write(&stamp, wanted)?;
        Ok(tools)
    }

    /// Unpacks Debian's packages, as a user may do without installing them.
    fn unpack_rustc(&self, llvm: &str) -> Result<()> {
        println!("unpacking rustc-web {}", self.version);
        let packages = [
            "rustc-web".to_owned(),
            self.libraries(),
            "libstd-rust-web-dev".to_owned(),
            "libstd-rust-web-dev-bpf".to_owned(),
        ]
        .map(|package| format!("{package}={}", self.version));
        let archives = self.folder.join("deb");
        let _ = fs::remove_dir_all(&archives);
        fs::create_dir_all(&archives)?;
        call(
            Command::new("apt-get")
                .args(["download", "--quiet"])
                .args(packages)
                .arg(format!("libllvm{llvm}"))
                .current_dir(&archives),
        )?;
        for archive in fs::read_dir(&archives)? {
            let archive = archive?.path();
            call(Command::new("dpkg").arg("-x").arg(archive).arg(self.folder.join("root")))?;
        }
        self.write_wrapper()
    }

    /// rustc finds its LLVM and its `core` only with this help, as it is not installed.
    fn write_wrapper(&self) -> Result<()> {
        let (rustc, root) = (self.rustc(), self.folder.join("root/usr"));
        let script = format!(
            "#!/bin/sh\nLD_LIBRARY_PATH={} exec {} --sysroot {} \"$@\"\n",
            self.shared_objects().display(),
            root.join("bin/rustc").display(),
            root.display()
        );
        fs::write(&rustc, script)?;
        call(Command::new("chmod").arg("+x").arg(&rustc))
    }

    /// Builds bpf-linker against the LLVM of the compiler: bitcode has no other stable reader.
    fn install_linker(&self, llvm: &str) -> Result<()> {
        println!("building bpf-linker {BPF_LINKER}");
        let prefix = self.folder.join("llvm");
        fs::create_dir_all(prefix.join("lib"))?;
        let library = format!("libLLVM.so.{llvm}.1");
        for name in ["libLLVM.so", &library] {
            let link = prefix.join("lib").join(name);
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(self.shared_objects().join(&library), link)?;
        }
        call(
            cargo()
                .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"])
                .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
                .arg("--root")
                .arg(self.folder.join("bl"))
                .env("LLVM_PREFIX", &prefix)
                .env("CARGO_TARGET_DIR", self.folder.join("bl-target")),
        )
    }

    /// Compiles the program; returns the path of the object with its debug information.
    fn compile(&self, root: &Path) -> Result<PathBuf> {
        let target = self.folder.join("target");
        // So that the folders of the crates are there to be named below.
        call(cargo().args(["fetch", "--locked"]).current_dir(root.join("relay-ebpf")))?;
        // BTF names source files: without the prefixes, the object is the same from every folder.
        let mut flags = vec!["-Clink-arg=--btf".to_owned(), "-Clinker=bpf-linker".to_owned()];
        flags.push(format!("--remap-path-prefix={}=relay", root.display()));
        for sources in registry_sources()? {
            flags.push(format!("--remap-path-prefix={}=crates", sources.display()));
        }
        let linkers = self.folder.join("bl/bin");
        let path = env::join_paths(
            [linkers].into_iter().chain(env::split_paths(&env::var_os("PATH").unwrap_or_default())),
        )?;
        call(
            cargo()
                .args(["build", "--release", "--locked", "--target", BPF_TARGET])
                .current_dir(root.join("relay-ebpf"))
                .env("RUSTC", self.rustc())
                // The BPF target is not among those that a stable compiler admits.
                .env("RUSTC_BOOTSTRAP", "1")
                .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
                .env("CARGO_TARGET_DIR", &target)
                .env("PATH", path),
        )?;
        Ok(target.join(BPF_TARGET).join("release/relay"))
    }

    /// The package with the libraries of this release, such as "libstd-rust-web-1.96".
    fn libraries(&self) -> String {
        let release: Vec<&str> = self.version.split('.').take(2).collect();
        format!("libstd-rust-web-{}", release.join("."))
    }

    fn rustc(&self) -> PathBuf {
        self.folder.join("rustc")
    }

    fn shared_objects(&self) -> PathBuf {
        self.folder.join("root/usr/lib/x86_64-linux-gnu")
    }
}

/// Where cargo unpacks crates: one folder for each registry.
fn registry_sources() -> Result<Vec<PathBuf>> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .context("neither CARGO_HOME nor HOME is set")?;
    let sources = home.join("registry/src");
    fs::create_dir_all(&sources)?;
    fs::read_dir(sources)?.map(|entry| Ok(entry?.path())).collect()
}

/// The version of `package` that apt would install. Debian keeps only the newest one.
fn candidate(package: &str) -> Result<String> {
    let policy = output(Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C"))?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    match version {
        Some(version) if version != "(none)" => Ok(version.to_owned()),
        _ => bail!(
            "apt knows no {package}: needs Debian 12 with its security archive, and `apt-get update`"
        ),
    }
}

/// The major version of the LLVM that the package with rustc's own library is linked with.
fn llvm_of(library: &str) -> Result<String> {
    let depends = output(Command::new("apt-cache").args(["depends", library]))?;
    let llvm = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: libllvm"));
    llvm.map(str::to_owned).with_context(|| format!("{library} depends on no libllvm"))
}

fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.env_remove("RUSTFLAGS");
    cargo
}

/// Runs `command`; an error if it fails.
fn call(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "{program} failed: {status}");
    Ok(())
}

/// Runs `command` and returns what it printed.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed: {stderr}");
    Ok(String::from_utf8(output.stdout)?)
}
