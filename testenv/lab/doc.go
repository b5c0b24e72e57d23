// Package lab holds the scripts that the Vagrantfile sets machines up with.
// Its tests run them in network namespaces. It has no Go code of its own.
package lab
