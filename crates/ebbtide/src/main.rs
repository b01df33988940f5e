//! Ebbtide: makes a Linux machine forget at every boot, except for what was declared.

fn main() -> std::process::ExitCode {
    ebbtide::main()
}
