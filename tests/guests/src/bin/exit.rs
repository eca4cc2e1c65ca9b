//! `exit CODE [LINE]`: prints the line and exits with the code, and leaves a the line as its termination message.

fn main() {
    let mut args = std::env::args().skip(1);
    let code = args.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    if let Some(line) = args.next() {
        println!("{line}");
        // Not every pod mounts the file; then there is no message.
        let _ = std::fs::write("/dev/termination-log", line);
    }
    std::process::exit(code);
}
