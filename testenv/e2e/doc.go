// Package e2e holds the end-to-end tests: the real binary, real sockets, real
// frames through native and generic XDP, in network namespaces. It has no
// code of its own; the cluster is package rig's.
package e2e
