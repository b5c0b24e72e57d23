// Package bpf is the packet path in C, compiled, and its Go face.
//
// The constants, sizes and structs that both sides use are generated from
// types.h, the sentences of the verdicts from its comments. What C packs into
// words (a flow, a template) is unpacked here and nowhere else, and each hash
// has its one Go function here. The package loads nothing into the kernel
// (package loader does) and does not know what a service is.
package bpf
