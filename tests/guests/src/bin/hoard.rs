//! Allocates without end: only a memory limit ends it.

fn main() {
    println!("hoarding");
    let mut held: Vec<Vec<u8>> = Vec::new();
    loop {
        held.push(vec![1; 1 << 20]);
        std::hint::black_box(&held);
    }
}
