// Package keepalived reads keepalived.conf and says in lvx's YAML what it
// means, with an account of every statement: mapped, harmless, changed or
// lost.
//
// Rule files of ipvsadm, and the firewall marks that iptables-save lists, which
// people have beside it, are read as well.
//
// The package is pure: files are read through [Files], programs are neither
// run nor looked for, the host is not asked. It follows keepalived's own
// reading, surprising defaults included: no protocol is UDP, no lb_kind is NAT,
// a comment sign ends a password. What keepalived would misread because of an
// unknown block is read as it was meant, and reported as lost. The package
// refuses to guess: what lvx has no word for is reported, never dropped in
// silence, and no password reaches a report.
package keepalived
