package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lvx-lb/lvx/pkg/admin"
	"github.com/lvx-lb/lvx/pkg/ipvsadm"
)

// restored are the rules of one `ipvsadm -R`: services of nine reals each.
const (
	restoredServices = 1270
	restoredReals    = 9
)

// knownServices are the file's, whose reals are all that there are: what one -R
// writes then is not mixed with the MACs of newcomers.
const knownServices = realHosts / realsPerService

// mostWrites is how often the tables may be published while one -R runs: once,
// and by the daemon's periodic pass if that falls into it.
const mostWrites = 2

// restoreRules are the rules of n services, ten lines each.
func restoreRules(n int) string {
	var rules strings.Builder
	for s := range n {
		at := netip.AddrPortFrom(consecutive(plantVIPs.Addr(), s+knownServices+1), 80)
		fmt.Fprintf(&rules, "-A -t %s -s wrr\n", at)
		for r := range restoredReals {
			fmt.Fprintf(&rules, "-a -t %s -r %s -g -w %d\n", at, consecutive(plantReals.Addr(), (restoredReals*s+r)%realHosts), r+1)
		}
	}
	return rules.String()
}

// edits measures a table of ipvsadm's by one -R, and all of it line by line.
func edits(ctx context.Context, j *job) (err error) {
	p, err := newPlant(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	services := restoredServices
	if j.quick {
		services /= 10
	}
	return p.restore(ctx, j, services, services)
}

// restore measures a table of ipvsadm's by one -R, and a part of it line by line.
func (p *plant) restore(ctx context.Context, j *job, services, oneByOneServices int) (err error) {
	d, err := p.start(ctx, manyServices(knownServices), &timings{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	rules, some := restoreRules(services), restoreRules(oneByOneServices)
	file := filepath.Join(p.dir, "rules")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		return err
	}
	type way struct {
		name, what, rules string
		do                func(context.Context) error
	}
	atOnce := func(ctx context.Context) error {
		_, err := p.director.Run(ctx, "env", "LVX_SOCKET="+p.socket(), "sh", "-c", p.lvx+" ipvsadm -R <"+file)
		return err
	}
	client := admin.NewClient(p.socket())
	oneByOne := func(ctx context.Context) error { return editOneByOne(ctx, client, some) }
	for _, w := range []way{{"restore", "by one -R", rules, atOnce}, {"edits", "by as many single edits", some, oneByOne}} {
		lines := strings.Count(w.rules, "\n")
		writes, took, err := d.countWrites(ctx, w.do)
		if err != nil {
			return fmt.Errorf("%d rules %s: %w", lines, w.what, err)
		}
		what := fmt.Sprintf("%d rules of ipvsadm %s", lines, w.what)
		j.report.figure("control", fmt.Sprintf("%s/%d", w.name, lines), what, "ms", took)
		j.report.figure("control", fmt.Sprintf("%s-writes/%d", w.name, lines), what+": how often the tables were written", "", float64(writes))
		if w.name == "restore" {
			j.report.Checks = append(j.report.Checks, atMost(what+": how often the tables were written", float64(writes), mostWrites))
		}
		if _, err := client.ClearRuntime(ctx); err != nil {
			return err
		}
		fmt.Fprint(j.notes, ".")
	}
	return nil
}

// editOneByOne gives the daemon one command at a time.
func editOneByOne(ctx context.Context, client *admin.Client, rules string) error {
	var failed error
	err := ipvsadm.Rules(strings.NewReader(rules), func(args []string) bool {
		command, fail := ipvsadm.Parse("ipvsadm", args, nil)
		if fail != nil {
			failed = errors.New(fail.Text)
			return false
		}
		_, failed = client.Edit(ctx, []ipvsadm.Command{command})
		return failed == nil
	})
	return errors.Join(err, failed)
}

// countWrites does something, and returns how often the tables were published
// meanwhile, each time by a change of the half in force, and how many
// milliseconds it took. The daemon's periodic pass counts too.
func (d *daemon) countWrites(ctx context.Context, do func(context.Context) error) (writes int64, took float64, err error) {
	last, err := d.half()
	if err != nil {
		return 0, 0, err
	}
	var count atomic.Int64
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		for {
			half, err := d.half()
			if err != nil {
				stopped <- err
				return
			}
			if half != last {
				count.Add(1)
				last = half
			}
			select {
			case <-stop:
				stopped <- nil
				return
			case <-time.After(time.Millisecond / 5):
			}
		}
	}()
	began := time.Now()
	err = do(ctx)
	took = sinceMS(began)
	close(stop)
	return count.Load(), took, errors.Join(err, <-stopped)
}
