package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lvx-lb/lvx/testenv/vm/onearm"
)

const leastConnFormat = `Format. A section begins with "== title". "$ ipvsadm" lines build the table. A line that begins with two spaces is a sequence of events:
  S7>3   connection 7 opens: its SYN went to rs3 ("-" = nobody got it: there is no connection then); it is in SYN_RECV, active
  A7     an ACK on connection 7: ESTABLISHED, active (from FIN_WAIT, TIME_WAIT, CLOSE: no change)
  F7     FIN+ACK on connection 7: FIN_WAIT from ESTABLISHED, TIME_WAIT from SYN_RECV, inactive
  R7     RST on connection 7: CLOSE, inactive (from SYN_RECV: no change, active)
  U7>3   connection 7 is the first UDP packet of a client, to rs3: inactive from the start
  w2=5   ipvsadm -e: rs2 gets weight 5
  -2     ipvsadm -d: rs2 is deleted, its connections stay and count for it when it returns
  +2=1   ipvsadm -a: rs2 is added again, with weight 1, and is the head of the kernel's list now
  T200   200 s pass: every connection that is not ESTABLISHED is gone (UDP: 300 s, stays); T400 ends those of UDP too
Less than 9 s pass between any two T events. rsN is 10.0.0.(10+N). Each section ends with the table as the kernel counts it.
`

// A countCase is one section for a scheduler that counts connections.
type countCase struct {
	title   string
	sched   string
	weights []int
	options map[int]string // further ipvsadm options of a real
	plan    func(*play) error
}

func recordLeastConn(t *transcript) error {
	t.printf("%s", leastConnFormat)
	for _, sched := range []string{"lc", "wlc", "sed", "nq"} {
		for _, c := range countCases(sched) {
			if !t.only.MatchString(c.title) {
				continue
			}
			if err := c.record(t); err != nil {
				return fmt.Errorf("%s: %w", c.title, err)
			}
		}
	}
	return nil
}

func countCases(sched string) []countCase {
	var cases []countCase
	for _, ws := range [][]int{{1, 1}, {1, 1, 1}, {1, 2}, {3, 1, 2}, {1, 0, 2}, {0, 0}, {100, 1}, {65535, 65534}, {1, 2, 3, 4, 5}} {
		cases = append(cases, countCase{title: "SYNs only", weights: ws, plan: opensOnly(24)})
	}
	for seed, ws := range [][]int{{1, 1, 1}, {3, 1, 2}, {2, 5}, {1, 1, 1, 1, 10}} {
		cases = append(cases, countCase{title: fmt.Sprintf("random life %d", seed), weights: ws, plan: life(uint64(seed), false)})
	}
	for seed, ws := range [][]int{{1, 1, 1}, {3, 1, 2, 4}} {
		cases = append(cases, countCase{title: fmt.Sprintf("random life with edits %d", seed), weights: ws, plan: life(uint64(100+seed), true)})
	}
	cases = append(cases,
		countCase{title: "rs2 with -x 3 -y 1", weights: []int{1, 1}, options: map[int]string{2: " -x 3 -y 1"}, plan: life(200, false)},
		countCase{title: "inactive connections only", weights: []int{1, 1, 1}, plan: inactiveOnly},
		countCase{title: "idle reals", weights: []int{1, 4, 2}, plan: idleReals},
	)
	for i := range cases {
		cases[i].sched = sched
		cases[i].title = fmt.Sprintf("%s weights %s: %s", sched, strings.Trim(strings.ReplaceAll(fmt.Sprint(cases[i].weights), " ", ","), "[]"), cases[i].title)
	}
	return cases
}

func (c countCase) record(t *transcript) (err error) {
	n, err := onearm.New(vip)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := n.Close(); err == nil {
			err = cerr
		}
	}()
	t.printf("\n== %s\n", c.title)
	for _, service := range []string{tcp, "-u 10.0.0.100:80"} {
		if service != tcp && !strings.Contains(c.title, "inactive") {
			continue
		}
		if err := t.command("ipvsadm -A " + service + " -s " + c.sched); err != nil {
			return err
		}
		for i, w := range c.weights {
			if err := t.command("ipvsadm -a " + real(service, i+1, w) + c.options[i+1]); err != nil {
				return err
			}
		}
	}
	p := &play{net: n, t: t, quiet: time.Now(), weights: slices.Clone(c.weights), options: c.options}
	if err := c.plan(p); err != nil {
		return err
	}
	p.flush()
	return t.list()
}

// state is what a connection can do next.
type state int

const (
	opening state = iota
	open
	closing
	datagram
)

// play sends the packets of one section.
type play struct {
	net     *onearm.Net
	t       *transcript
	events  []string
	conns   map[int]state // live connections
	last    int
	weights []int
	options map[int]string
	quiet   time.Time // of the last T event
}

func (p *play) say(format string, args ...any) {
	p.events = append(p.events, fmt.Sprintf(format, args...))
	if len(p.events) == 20 {
		p.flush()
	}
}

func (p *play) flush() {
	if len(p.events) > 0 {
		p.t.printf("  %s\n", strings.Join(p.events, " "))
	}
	p.events = nil
}

func (p *play) packet(conn int, flags string) onearm.Packet {
	return onearm.Packet{
		Src: netip.AddrPortFrom(offset(client, 1+conn%200), uint16(20000+conn)), Dst: netip.AddrPortFrom(vip, 80),
		Flags: flags, UDP: flags == "",
	}
}

// open opens the next connection, by TCP or by UDP.
func (p *play) open(udp bool) error {
	p.last++
	letter, flags, st := "S", "S", opening
	if udp {
		letter, flags, st = "U", "", datagram
	}
	digit, err := choose(p.net, p.packet(p.last, flags))
	if err != nil {
		return err
	}
	p.say("%s%d>%s", letter, p.last, digit)
	if digit != "-" {
		if p.conns == nil {
			p.conns = map[int]state{}
		}
		p.conns[p.last] = st
	}
	return nil
}

// send sends an ACK, FIN or RST on a connection.
func (p *play) send(conn int, letter string) error {
	flags := map[string]string{"A": "A", "F": "FA", "R": "R"}[letter]
	if _, err := p.net.Send(p.packet(conn, flags)); err != nil {
		return err
	}
	p.say("%s%d", letter, conn)
	was := p.conns[conn]
	switch {
	case letter == "A" && was == opening:
		p.conns[conn] = open
	case letter == "F" && was != closing, letter == "R" && was == open:
		p.conns[conn] = closing
	}
	return nil
}

// wait lets time pass.
func (p *play) wait(seconds int) error {
	// A connection in CLOSE lives 10 s; no section may depend on when.
	if took := time.Since(p.quiet); took > 9*time.Second {
		return fmt.Errorf("%s since the last pause, more than the format promises", took)
	}
	time.Sleep(time.Duration(seconds) * time.Second)
	p.quiet = time.Now()
	p.say("T%d", seconds)
	for c, st := range p.conns {
		if st == opening || st == closing || st == datagram && seconds >= 400 {
			delete(p.conns, c)
		}
	}
	return nil
}

func (p *play) weigh(real, weight int) error {
	p.weights[real-1] = weight
	p.say("w%d=%d", real, weight)
	return quietly(fmt.Sprintf("ipvsadm -e %s%s", realOf(real, weight), p.options[real]))
}

// replace deletes a real, opens some connections and adds it again.
func (p *play) replace(real, weight int) error {
	p.say("-%d", real)
	if err := quietly(fmt.Sprintf("ipvsadm -d %s -r %s", tcp, onearm.Real(real))); err != nil {
		return err
	}
	for range 3 {
		if err := p.open(false); err != nil {
			return err
		}
	}
	p.weights[real-1] = weight
	p.say("+%d=%d", real, weight)
	return quietly(fmt.Sprintf("ipvsadm -a %s%s", realOf(real, weight), p.options[real]))
}

func realOf(n, weight int) string { return real(tcp, n, weight) }

func opensOnly(count int) func(*play) error {
	return func(p *play) error {
		for range count {
			if err := p.open(false); err != nil {
				return err
			}
		}
		return nil
	}
}

// life is a random but repeatable sequence of everything that can happen.
func life(seed uint64, edits bool) func(*play) error {
	return func(p *play) error {
		rnd := rand.New(rand.NewPCG(seed, 1))
		for step := 1; step <= 240; step++ {
			if err := p.step(rnd, step, edits); err != nil {
				return err
			}
		}
		return nil
	}
}

func (p *play) step(rnd *rand.Rand, step int, edits bool) error {
	if step%80 == 0 {
		return p.wait(200)
	}
	roll := rnd.IntN(100)
	if edits && roll < 6 {
		return p.weigh(1+rnd.IntN(len(p.weights)), rnd.IntN(5))
	}
	if edits && roll < 8 {
		return p.replace(1+rnd.IntN(len(p.weights)), 1+rnd.IntN(4))
	}
	conn, ok := p.pick(rnd)
	if !ok || roll < 45 {
		return p.open(false)
	}
	switch {
	case roll < 75:
		return p.send(conn, "A")
	case roll < 90:
		return p.send(conn, "F")
	}
	return p.send(conn, "R")
}

// pick picks a live connection.
func (p *play) pick(rnd *rand.Rand) (int, bool) {
	var live []int
	for c := range p.conns {
		live = append(live, c)
	}
	if len(live) == 0 {
		return 0, false
	}
	slices.Sort(live)
	return live[rnd.IntN(len(live))], true
}

// inactiveOnly shows how inactive connections weigh: those of UDP and closed
// ones of TCP. The two services count apart, though their reals are the same
// hosts.
func inactiveOnly(p *play) error {
	for i := range 40 {
		if err := p.open(i%4 == 3); err != nil {
			return err
		}
		if st := p.conns[p.last]; st == opening {
			if err := p.send(p.last, "F"); err != nil {
				return err
			}
		}
		if i == 25 {
			if err := p.wait(200); err != nil {
				return err
			}
		}
	}
	return nil
}

// idleReals ends all connections of one real after the other, which is where
// nq differs from sed.
func idleReals(p *play) error {
	for range 14 {
		if err := p.open(false); err != nil {
			return err
		}
		if err := p.send(p.last, "A"); err != nil {
			return err
		}
	}
	for conn := 1; conn <= 14; conn++ {
		if conn%3 == 0 {
			continue
		}
		if err := p.send(conn, "R"); err != nil {
			return err
		}
	}
	if err := p.wait(200); err != nil {
		return err
	}
	return opensOnly(14)(p)
}
