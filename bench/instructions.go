package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
)

// leastFewer is how many times fewer instructions NAT has to take than by kernel
// IPVS.
const leastFewer = 3

// counted are the cases that the guest counts, with what the report calls them.
var counted = []struct{ name, what string }{
	{"dr_in", "direct routing"},
	{"nat_in", "NAT, from the client"},
	{"nat_out", "NAT, from the real"},
}

// instructions compares lvx with kernel IPVS on one kernel, that of a virtual
// machine whose clock counts the instructions: all that a packet takes, from the
// sender to the look at what arrives behind the director.
func instructions(ctx context.Context, j *job) error {
	fmt.Fprint(j.notes, "instructions per packet, in the guest ")
	text, err := inGuest(ctx, "instructions")
	if err != nil {
		return err
	}
	fmt.Fprintln(j.notes)
	return j.report.addInstructions(text)
}

// addInstructions notes what the guest's test has said, and checks NAT.
func (r *Report) addInstructions(text string) error {
	found := map[string]float64{}
	for _, m := range regexp.MustCompile(`instructions per packet: (\S+) ([\d.]+)`).FindAllStringSubmatch(text, -1) {
		n, err := strconv.ParseFloat(m[2], 64)
		if err != nil {
			return fmt.Errorf("instructions per packet: %w", err)
		}
		found[m[1]] = n
	}
	note := func(name, what string) (float64, error) {
		if found[name] <= 0 {
			return 0, fmt.Errorf("no figure %s in %q", name, text)
		}
		r.figure("instructions per packet, "+guestKernel, "instructions/"+name, what, "", found[name])
		return found[name], nil
	}
	if _, err := note("empty/back", "a program that sends back at once"); err != nil {
		return err
	}
	for _, c := range counted {
		lvx, err := note("lvx/"+c.name, c.what+", lvx")
		if err != nil {
			return err
		}
		kernel, err := note("ipvs/"+c.name, c.what+", kernel IPVS")
		if err != nil {
			return err
		}
		r.Checks = append(r.Checks, atLeast(c.what+": instructions of kernel IPVS / lvx's, whole path", kernel/lvx, leastFewer))
	}
	return nil
}
