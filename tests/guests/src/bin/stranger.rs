//! Imports an interface that no host has.

wit_bindgen::generate!({
    inline: "
        package nobody:home@0.1.0;
        interface door { knock: func() -> u32; }
        world stranger { import door; }
    "
});

fn main() {
    println!("{}", nobody::home::door::knock());
}
