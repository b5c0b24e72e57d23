// Package fallback runs the whole of lvx where kernel IPVS is: the NAT and
// direct routing experiments of docs/seeds.md's second article from their
// YAML, a configuration that asks for everything XDP cannot do, and services
// that move from one backend to the other while they serve.
//
// Its tests are built with the tag ipvsvm and run in a guest (testenv/vm/lane),
// which has the daemon as /t/lvx. They drive lvx from outside, as an operator
// does.
package fallback
