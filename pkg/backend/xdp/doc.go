// Package xdp is the [lb.Backend] on lvx's own packet path.
//
// It compiles a state into the tables that bpf/maps.h describes and reads
// counters and connections back. It does not load or attach anything
// (package loader does) and does not find out MACs (package neigh does, behind
// [Neighbors]). What is written to the tables is seen by the next packet, so
// everything here is about order: a new configuration is laid out beside the
// one in force and published by one store.
package xdp
