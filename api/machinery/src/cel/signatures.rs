//! What functions take and return: the table that the check reads.
//!
//! One line for each overload: `receiver.name(arguments) result`, without a receiver for functions that are called alone. Capital
//! letters stand for any type, the same letter for the same type. Source: cel-go's standard library and `ext`, and
//! `k8s.io/apiserver/pkg/cel/library`.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::types::{ListKind, Type};

pub(super) struct Overload {
    /// True for what is called on its first argument.
    pub method: bool,
    pub arguments: Vec<Type>,
    pub result: Type,
}

const TABLE: &str = "
size(string) int
size(bytes) int
size(list(A)) int
size(map(A,B)) int
string.size() int
bytes.size() int
list(A).size() int
map(A,B).size() int
string.contains(string) bool
string.startsWith(string) bool
string.endsWith(string) bool
string.matches(string) bool
matches(string,string) bool
type(A) type
dyn(A) dyn
int(int) int
int(uint) int
int(double) int
int(string) int
int(timestamp) int
int(duration) int
uint(uint) uint
uint(int) uint
uint(double) uint
uint(string) uint
double(double) double
double(int) double
double(uint) double
double(string) double
bool(bool) bool
bool(string) bool
bytes(bytes) bytes
bytes(string) bytes
string(string) string
string(bool) string
string(int) string
string(uint) string
string(double) string
string(bytes) string
string(timestamp) string
string(duration) string
string(IP) string
string(CIDR) string
timestamp(timestamp) timestamp
timestamp(string) timestamp
timestamp(int) timestamp
duration(duration) duration
duration(string) duration
duration(int) duration
timestamp.getFullYear() int
timestamp.getFullYear(string) int
timestamp.getMonth() int
timestamp.getMonth(string) int
timestamp.getDayOfYear() int
timestamp.getDayOfYear(string) int
timestamp.getDayOfMonth() int
timestamp.getDayOfMonth(string) int
timestamp.getDate() int
timestamp.getDate(string) int
timestamp.getDayOfWeek() int
timestamp.getDayOfWeek(string) int
timestamp.getHours() int
timestamp.getHours(string) int
timestamp.getMinutes() int
timestamp.getMinutes(string) int
timestamp.getSeconds() int
timestamp.getSeconds(string) int
timestamp.getMilliseconds() int
timestamp.getMilliseconds(string) int
duration.getHours() int
duration.getMinutes() int
duration.getSeconds() int
duration.getMilliseconds() int
string.charAt(int) string
string.indexOf(string) int
string.indexOf(string,int) int
string.lastIndexOf(string) int
string.lastIndexOf(string,int) int
string.lowerAscii() string
string.upperAscii() string
string.replace(string,string) string
string.replace(string,string,int) string
string.split(string) list(string)
string.split(string,int) list(string)
string.substring(int) string
string.substring(int,int) string
string.trim() string
string.reverse() string
string.format(list(dyn)) string
strings.quote(string) string
list(string).join() string
list(string).join(string) string
string.find(string) string
string.findAll(string) list(string)
string.findAll(string,int) list(string)
list(A).isSorted() bool
list(A).sum() A
list(A).min() A
list(A).max() A
list(A).indexOf(A) int
list(A).lastIndexOf(A) int
list(A).slice(int,int) list(A)
list(A).sort() list(A)
list(A).flatten() list(dyn)
list(A).flatten(int) list(dyn)
list(A).distinct() list(A)
list(A).reverse() list(A)
list(A).first() optional(A)
list(A).last() optional(A)
lists.range(int) list(int)
sets.contains(list(A),list(A)) bool
sets.equivalent(list(A),list(A)) bool
sets.intersects(list(A),list(A)) bool
url(string) URL
isURL(string) bool
URL.getScheme() string
URL.getHost() string
URL.getHostname() string
URL.getPort() string
URL.getEscapedPath() string
URL.getQuery() map(string,list(string))
ip(string) IP
isIP(string) bool
ip.isCanonical(string) bool
IP.family() int
IP.isUnspecified() bool
IP.isLoopback() bool
IP.isLinkLocalMulticast() bool
IP.isLinkLocalUnicast() bool
IP.isGlobalUnicast() bool
cidr(string) CIDR
isCIDR(string) bool
CIDR.containsIP(string) bool
CIDR.containsIP(IP) bool
CIDR.containsCIDR(string) bool
CIDR.containsCIDR(CIDR) bool
CIDR.ip() IP
CIDR.prefixLength() int
CIDR.masked() CIDR
quantity(string) Quantity
isQuantity(string) bool
Quantity.isInteger() bool
Quantity.asInteger() int
Quantity.asApproximateFloat() double
Quantity.sign() int
Quantity.add(Quantity) Quantity
Quantity.add(int) Quantity
Quantity.sub(Quantity) Quantity
Quantity.sub(int) Quantity
Quantity.isGreaterThan(Quantity) bool
Quantity.isLessThan(Quantity) bool
Quantity.compareTo(Quantity) int
semver(string) Semver
semver(string,bool) Semver
isSemver(string) bool
isSemver(string,bool) bool
Semver.major() int
Semver.minor() int
Semver.patch() int
Semver.isGreaterThan(Semver) bool
Semver.isLessThan(Semver) bool
Semver.compareTo(Semver) int
format.dns1123Label() Format
format.dns1123Subdomain() Format
format.dns1035Label() Format
format.qualifiedName() Format
format.dns1123LabelPrefix() Format
format.dns1123SubdomainPrefix() Format
format.dns1035LabelPrefix() Format
format.labelValue() Format
format.uri() Format
format.uuid() Format
format.byte() Format
format.date() Format
format.datetime() Format
format.named(string) optional(Format)
Format.validate(string) optional(list(string))
base64.encode(bytes) string
base64.decode(string) bytes
jsonpatch.escapeKey(string) string
math.ceil(double) double
math.floor(double) double
math.round(double) double
math.trunc(double) double
math.abs(A) A
math.sign(A) A
math.sqrt(A) double
math.isInf(double) bool
math.isNaN(double) bool
math.isFinite(double) bool
math.bitAnd(A,A) A
math.bitOr(A,A) A
math.bitXor(A,A) A
math.bitNot(A) A
math.bitShiftLeft(A,int) A
math.bitShiftRight(A,int) A
math.greatest(dyn) dyn
math.greatest(dyn,dyn) dyn
math.greatest(dyn,dyn,dyn) dyn
math.greatest(dyn,dyn,dyn,dyn) dyn
math.least(dyn) dyn
math.least(dyn,dyn) dyn
math.least(dyn,dyn,dyn) dyn
math.least(dyn,dyn,dyn,dyn) dyn
optional.none() optional(dyn)
optional.of(A) optional(A)
optional.ofNonZeroValue(A) optional(A)
optional(A).hasValue() bool
optional(A).value() A
optional(A).or(optional(A)) optional(A)
optional(A).orValue(A) A
";

/// The overloads of a name; qualified names are one name.
pub(super) fn overloads(name: &str) -> Option<&'static [Overload]> {
    static ALL: OnceLock<HashMap<String, Vec<Overload>>> = OnceLock::new();
    ALL.get_or_init(read).get(name).map(Vec::as_slice)
}

fn read() -> HashMap<String, Vec<Overload>> {
    let mut all: HashMap<String, Vec<Overload>> = HashMap::new();
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        let (call, result) = line.rsplit_once(' ').expect("a line has a result");
        let (before, arguments) = split_call(call);
        let (receiver, name) = match before.rsplit_once('.') {
            Some((space, _)) if super::functions::is_namespaced(space) => (None, before),
            Some((receiver, name)) => (Some(receiver), name),
            None => (None, before),
        };
        let arguments = receiver.into_iter().chain(parts(arguments)).map(ty).collect();
        let overload = Overload { method: receiver.is_some(), arguments, result: ty(result) };
        all.entry(name.to_owned()).or_default().push(overload);
    }
    all
}

/// `a.f(b,c)` into `a.f` and `b,c`: at the parenthesis that belongs to the name.
fn split_call(call: &str) -> (&str, &str) {
    let inside = call.strip_suffix(')').expect("a call ends with its arguments");
    let mut depth = 0;
    for (at, letter) in inside.char_indices().rev() {
        match letter {
            ')' => depth += 1,
            '(' if depth == 0 => return (&inside[..at], &inside[at + 1..]),
            '(' => depth -= 1,
            _ => {}
        }
    }
    (inside, "")
}

fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text.is_empty() {
        parts.push(&text[start..]);
    }
    parts
}

fn ty(text: &str) -> Type {
    if let Some((name, inside)) = text.split_once('(') {
        let inside = inside.strip_suffix(')').expect("what opens closes");
        let mut inner = parts(inside).into_iter().map(ty);
        let mut next = || Arc::new(inner.next().unwrap_or_default());
        return match name {
            "list" => Type::List(next(), ListKind::Atomic, None),
            "map" => Type::Map(next(), next(), None),
            _ => Type::Optional(next()),
        };
    }
    match text {
        "string" => Type::STRING,
        "bytes" => Type::Bytes(None),
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "bool" => Type::Bool,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type,
        "URL" => Type::Library("kubernetes.URL"),
        "IP" => Type::Library("net.IP"),
        "CIDR" => Type::Library("net.CIDR"),
        "Quantity" => Type::Library("kubernetes.Quantity"),
        "Semver" => Type::Library("kubernetes.Semver"),
        "Format" => Type::Library("kubernetes.NamedFormat"),
        "A" => Type::Open(0),
        "B" => Type::Open(1),
        _ => Type::Dyn,
    }
}
