package admin

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// scrapeTimeout bounds what one scrape may ask of the director.
const scrapeTimeout = 5 * time.Second

// collector turns the director's answers into metrics at scrape time; it
// keeps nothing.
type collector struct{ director Director }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("lvx_"+name, help, labels, nil)
}

// The metrics. A name is part of the interface: it does not change.
var (
	descUp      = desc("up", "1 if the director answers.")
	descInfo    = desc("info", "Always 1; version, backend and mode as labels.", "version", "backend", "mode")
	descStarted = desc("start_time_seconds", "When the daemon started, in seconds since 1970.")
	descFault   = desc("apply_failing", "1 while the kernel does not hold what was planned.")
	descFaults  = desc("apply_failures_total", "Failed attempts to put the plan into the kernel.")
	descReload  = desc("reload_ok", "0 if the last reload was refused.")
	descEdits   = desc("runtime_changes", "Services that ipvsadm has added, changed or removed beside the file.")

	descWarnings = desc("warning", "1 while something is wrong, in the words of lvx status.", "kind", "subject", "text")

	descServiceUp    = desc("service_up", "1 if a real server of the service is usable.", "service")
	descServiceConns = desc("service_connections_total", "Connections scheduled.", "service")
	descServicePkts  = desc("service_packets_total", "Packets from clients.", "service")
	descServiceBytes = desc("service_bytes_total", "Bytes from clients, IP length.", "service")

	descRealUp       = desc("real_up", "1 if the checks of the real server pass.", "service", "real")
	descRealWeight   = desc("real_weight", "Weight while it is up.", "service", "real")
	descRealConns    = desc("real_connections_total", "Connections scheduled.", "service", "real")
	descRealPkts     = desc("real_packets_total", "Packets from clients.", "service", "real")
	descRealBytes    = desc("real_bytes_total", "Bytes from clients, IP length.", "service", "real")
	descRealActive   = desc("real_active_connections", "Connections in SYN_RECV or ESTABLISHED.", "service", "real")
	descRealInactive = desc("real_inactive_connections", "Other connections.", "service", "real")
	descRealPersist  = desc("real_templates", "Persistence templates.", "service", "real")

	descVerdict  = desc("packets_total", "Packets by what the packet path decided.", "verdict")
	descCapacity = desc("table_capacity", "Entries that are guaranteed a place.", "table")
	descUsed     = desc("table_entries", "Entries in use.", "table")
	descEvicted  = desc("table_evicted_total", "Entries given up for new ones, by what they were.", "table", "kind")

	descRole     = desc("vrrp_role", "1 for the role that the instance has.", "instance", "role")
	descPriority = desc("vrrp_priority", "Effective priority.", "instance")
	descSince    = desc("vrrp_since_seconds", "When the instance took its role, in seconds since 1970.", "instance")
	descWarning  = desc("vrrp_warning", "1 while something is odd about the instance (see lvx status).", "instance")
	descPeer     = desc("vrrp_peer_last_advert_seconds", "When a peer's last accepted advertisement came, in seconds since 1970.", "instance", "peer")
	descDropped  = desc("vrrp_adverts_rejected_total", "Rejected advertisements by reason.", "instance", "reason")
)

// metrics answers with every metric of the daemon.
func (s *Server) metrics() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collector{s.opt.Director},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 2 * scrapeTimeout})
}

// Describe sends nothing: the labels are not known before a scrape.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	m := metrics(ch)
	st, err := c.director.Status(ctx)
	m.gauge(descUp, flag(err == nil))
	if err != nil {
		return
	}
	m.status(st)
	if l, err := c.director.List(ctx, director.Want{}); err == nil {
		m.stats(l.Stats)
	}
}

// metrics is where metrics go.
type metrics chan<- prometheus.Metric

func (m metrics) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (m metrics) counter(d *prometheus.Desc, v uint64, labels ...string) {
	m <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m metrics) status(st director.Status) {
	m.gauge(descInfo, 1, st.Version, st.Backend, st.Mode)
	m.gauge(descStarted, float64(st.Started.UnixMilli())/1000)
	m.gauge(descFault, flag(st.Fault != ""))
	m.counter(descFaults, st.Faults)
	m.gauge(descReload, flag(st.Reload.Error == ""))
	m.gauge(descEdits, float64(st.Edits))
	seen := map[[3]string]bool{} // a series twice would spoil the whole scrape
	for _, w := range st.Warnings {
		labels := [3]string{w.Kind, guard.Text(w.Subject), guard.Text(w.Text)}
		if !seen[labels] {
			seen[labels] = true
			m.gauge(descWarnings, 1, labels[:]...)
		}
	}
	for _, s := range st.Services {
		m.gauge(descServiceUp, flag(s.State == "up"), s.Name)
		for _, r := range s.Reals {
			name := director.RealName(netip.AddrPortFrom(r.Addr, r.Port))
			m.gauge(descRealUp, flag(r.State != "down"), s.Name, name)
			m.gauge(descRealWeight, float64(r.Weight), s.Name, name)
		}
	}
	for _, v := range st.VRRP {
		for _, role := range []string{"INIT", "BACKUP", "MASTER", "FAULT"} {
			m.gauge(descRole, flag(v.Role == role), v.Instance, role)
		}
		m.gauge(descPriority, float64(v.Priority), v.Instance)
		m.gauge(descSince, float64(v.Since.UnixMilli())/1000, v.Instance)
		m.gauge(descWarning, flag(v.Warning != ""), v.Instance)
		for _, p := range v.Peers {
			m.gauge(descPeer, float64(p.Seen.UnixMilli())/1000, v.Instance, p.Addr.String())
		}
		for reason, n := range v.Dropped {
			m.counter(descDropped, n, v.Instance, reason)
		}
	}
}

func (m metrics) stats(st lb.Stats) {
	for _, s := range st.Services {
		m.counter(descServiceConns, s.Conns, s.Name)
		m.counter(descServicePkts, s.InPkts, s.Name)
		m.counter(descServiceBytes, s.InBytes, s.Name)
		for _, r := range s.Reals {
			name := director.RealName(netip.AddrPortFrom(r.Addr, r.Port))
			m.counter(descRealConns, r.Conns, s.Name, name)
			m.counter(descRealPkts, r.InPkts, s.Name, name)
			m.counter(descRealBytes, r.InBytes, s.Name, name)
			m.gauge(descRealActive, float64(r.Active), s.Name, name)
			m.gauge(descRealInactive, float64(r.Inactive), s.Name, name)
			m.gauge(descRealPersist, float64(r.Persist), s.Name, name)
		}
	}
	for _, v := range st.Verdicts {
		m.counter(descVerdict, v.Count, v.Name)
	}
	m.table("flows", st.Flows)
	m.table("templates", st.Template)
}

func (m metrics) table(name string, t lb.TableStats) {
	m.gauge(descCapacity, float64(t.Capacity), name)
	m.gauge(descUsed, float64(t.Used), name)
	for kind, n := range t.Evicted {
		m.counter(descEvicted, n, name, kind)
	}
}
