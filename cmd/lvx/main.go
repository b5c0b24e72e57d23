// What Go no longer does by itself and health checks still need: a server with
// an old certificate is alive (pkg/health, tls.go).
//
//go:debug tlssha1=1
//go:debug rsa1024min=0
//go:debug x509negativeserial=1

// Command lvx is LVS direct routing in XDP: the director's daemon, the tools
// that ask it, and what a real server needs.
//
// This package is wiring and words. What a verb does is in the package that
// it calls; nothing is decided here but exit codes: 0 done, 1 failed, 2 wrong
// usage. Called as ipvsadm, the program speaks as ipvsadm does.
package main

import "os"

// version is set by the linker.
var version = "devel"

func main() { os.Exit(runAs(os.Args[0], os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
