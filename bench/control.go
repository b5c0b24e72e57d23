package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lvx-lb/lvx/pkg/admin"
)

// What the control plane is asked for.
const (
	realsPerService = 4
	realHosts       = 400 // the reals are shared: a host serves many services

	mostApplying = 2000 // ms, 10,000 services
	mostReload   = 50   // ms, one of them changed
	mostIdle     = 1    // % of a core, 100 reals
	mostMemory   = 64   // MiB, the same
)

// scale is one size of the configuration.
type scale struct{ services, starts, reloads int }

// control runs the daemon itself, in a namespace, with reals that answer ARP
// and checks.
func control(ctx context.Context, j *job) error {
	scales, restored, idle := []scale{{10, 5, 9}, {1000, 5, 9}, {10_000, 3, 9}}, restoredServices, 30*time.Second
	if j.quick {
		scales, restored, idle = []scale{{1000, 1, 3}}, restoredServices/10, time.Second
	}
	return controlOf(ctx, j, scales, restored, idle)
}

func controlOf(ctx context.Context, j *job, scales []scale, restored int, idle time.Duration) (err error) {
	p, err := newPlant(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	for _, s := range scales {
		fmt.Fprintf(j.notes, "control plane, %d services ", s.services)
		if err := p.measure(ctx, j, s); err != nil {
			return fmt.Errorf("%d services: %w", s.services, err)
		}
		fmt.Fprintln(j.notes)
	}
	fmt.Fprintf(j.notes, "control plane, %d rules of ipvsadm ", (1+restoredReals)*restored)
	if err := p.restore(ctx, j, restored, max(1, restored/10)); err != nil {
		return err
	}
	fmt.Fprintln(j.notes)
	fmt.Fprintf(j.notes, "control plane, idle for twice %s ", idle)
	busy, memory, err := p.idle(ctx, idle, false)
	if err != nil {
		return fmt.Errorf("idle: %w", err)
	}
	checking, _, err := p.idle(ctx, idle, true)
	if err != nil {
		return fmt.Errorf("idle but for checks: %w", err)
	}
	fmt.Fprintln(j.notes)
	j.report.figure("control", "idle/cpu", "100 reals, nothing to do: the daemon's share of a core", "%", busy)
	j.report.figure("control", "idle/memory", "100 reals, nothing to do: memory of the daemon (RssAnon)", "MiB", memory)
	j.report.figure("control", "checks/cpu", "100 reals, each checked every 6 s, the reals' answers included: share of a core", "%", checking)
	j.report.Checks = append(j.report.Checks,
		atMost("idle daemon, 100 reals: share of a core (%)", busy, mostIdle),
		atMost("idle daemon, 100 reals: RssAnon (MiB)", memory, mostMemory))
	return nil
}

// timings are samples in milliseconds.
type timings struct{ applied, serving, reload, answered, override []float64 }

// measure starts the daemon some times, and changes one service some times.
func (p *plant) measure(ctx context.Context, j *job, s scale) error {
	var t timings
	for i := range s.starts {
		d, err := p.start(ctx, manyServices(s.services), &t)
		if err != nil {
			return err
		}
		fmt.Fprint(j.notes, ".")
		if i == s.starts-1 {
			err = p.change(ctx, d, s, &t)
			if memory, e := d.memory(); e == nil {
				j.report.figure("control", fmt.Sprintf("memory/%d", s.services),
					fmt.Sprintf("%d services x %d reals: memory of the daemon (RssAnon)", s.services, realsPerService), "MiB", memory)
			}
		}
		if err = errors.Join(err, d.stop()); err != nil {
			return err
		}
	}
	note := func(name, what string, samples []float64) {
		j.report.spread("control", fmt.Sprintf("%s/%d", name, s.services), fmt.Sprintf("%d services x %d reals: %s", s.services, realsPerService, what), "ms", samples)
	}
	note("applied", "from the start to applied", t.applied)
	note("serving", "from the start to every VIP being there", t.serving)
	note("reload", "one service changed in the file, to applied", t.reload)
	note("answered", "the same, to the end of lvx reload", t.answered)
	note("override", "one weight changed by an operator, to applied", t.override)
	if s.services == 10_000 {
		j.report.Checks = append(j.report.Checks,
			atMost("10,000 services: file to applied (ms)", summarize(t.applied).Median, mostApplying),
			atMost("10,000 services: one changed in the file, to applied (ms)", summarize(t.reload).Median, mostReload),
			atMost("10,000 services: one changed by an operator, to applied (ms)", summarize(t.override).Median, mostReload))
	}
	return nil
}

// change changes one service in the file and by an operator, back and forth.
func (p *plant) change(ctx context.Context, d *daemon, s scale, t *timings) error {
	at := s.services / 2
	name := serviceName(at)
	client := admin.NewClient(p.socket())
	defined := manyServices(s.services)
	changed := slices.Clone(defined)
	changed[at].weights = []int{2, 1, 1, 1}
	for i := range 2 * s.reloads {
		services, length := changed, realsPerService+1
		if i%2 != 0 {
			services, length = defined, realsPerService
		}
		if err := p.write(services); err != nil {
			return err
		}
		seen, done, err := d.until(ctx, name, uint32(length), func(ctx context.Context) error {
			_, err := client.Reload(ctx)
			return err
		})
		if err != nil {
			return fmt.Errorf("reload: %w", err)
		}
		t.reload, t.answered = append(t.reload, seen), append(t.answered, done)
	}
	for i := range 2 * s.reloads {
		var weight *uint16
		length := realsPerService
		if i%2 == 0 {
			two := uint16(2)
			weight, length = &two, realsPerService+1
		}
		seen, _, err := d.until(ctx, name, uint32(length), func(ctx context.Context) error {
			_, err := client.SetWeight(ctx, name, defined[at].reals[0].String(), weight)
			return err
		})
		if err != nil {
			return fmt.Errorf("operator: %w", err)
		}
		t.override = append(t.override, seen)
	}
	return nil
}

// idle looks at a daemon of 50 services of two reals that has nothing to do,
// or nothing but to check them every six seconds, which is the default. In
// namespaces a real's answer is made on the time of the one who asks.
func (p *plant) idle(ctx context.Context, length time.Duration, checked bool) (busy, memory float64, err error) {
	services := manyServices(50)
	for i := range services {
		services[i].reals = services[i].reals[:2]
		services[i].check = checked
	}
	d, err := p.start(ctx, services, &timings{})
	if err != nil {
		return 0, 0, err
	}
	busy, err = d.busy(ctx, length)
	memory, e := d.memory()
	return busy, memory, errors.Join(err, e, d.stop())
}

// serviceConf is one service of the file.
type serviceConf struct {
	name    string
	vip     netip.Addr
	reals   []netip.Addr
	weights []int
	check   bool
}

func serviceName(i int) string { return fmt.Sprintf("service-%05d", i) }

// manyServices are n services, each on a VIP of its own.
func manyServices(n int) []serviceConf {
	list := make([]serviceConf, n)
	for i := range list {
		s := serviceConf{name: serviceName(i), vip: consecutive(plantVIPs.Addr(), i+1), weights: []int{1, 1, 1, 1}}
		for r := range realsPerService {
			s.reals = append(s.reals, consecutive(plantReals.Addr(), (realsPerService*i+r)%realHosts))
		}
		list[i] = s
	}
	return list
}

// write writes the configuration file.
func (p *plant) write(services []serviceConf) error {
	return os.WriteFile(p.file(), configText(services, p.director.PinDir(), p.director.Dir(), p.socket()), 0o600)
}

func configText(services []serviceConf, pins, state, socket string) []byte {
	text := fmt.Appendf(nil, "interface: eth0\npin_dir: %s\nstate_dir: %s\nadmin: {socket: %s}\nservices:\n", pins, state, socket)
	for _, s := range services {
		text = fmt.Appendf(text, "  - name: %s\n    listen: [\"%s:80/tcp\"]\n    scheduler: wrr\n", s.name, s.vip)
		if s.check {
			text = append(text, "    check: {type: tcp, via: real}\n"...)
		}
		text = append(text, "    reals:\n"...)
		for i, r := range s.reals {
			text = fmt.Appendf(text, "      - {address: %s, weight: %d}\n", r, s.weights[i])
		}
	}
	return text
}

func (p *plant) file() string   { return filepath.Join(p.director.Dir(), "lvx.yaml") }
func (p *plant) socket() string { return filepath.Join(p.director.Dir(), "lvx.sock") }
