//go:build ipvsvm

package main

// spin runs two instructions so many times.
func spin(times int64)
