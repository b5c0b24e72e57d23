package daemon

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/godbus/dbus/v5"
)

// notifySystemd says how far the daemon is, if systemd runs it.
func (d *Daemon) notifySystemd(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		d.log.Debug("systemd not notified", "err", err)
	}
}

// Job is what systemd is about to do with the unit that this process belongs
// to.
type Job string

// The jobs that matter. JobUnknown: systemd does not run this process, does
// not answer, or does nothing.
const (
	JobUnknown Job = ""
	JobStop    Job = "stop"
	JobRestart Job = "restart"
)

// askTimeout bounds how long the end of a daemon waits for an answer of
// systemd.
const askTimeout = time.Second

// SystemdJob asks systemd, over D-Bus, for the job that is queued for the
// unit of a process. An error says why nobody knows; without systemd there is
// none.
func SystemdJob(ctx context.Context, pid int) (Job, error) {
	if os.Getenv("INVOCATION_ID") == "" { // systemd.exec(5): set for everything that systemd runs
		return JobUnknown, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	job, err := queuedJob(ctx, pid)
	if err != nil {
		return JobUnknown, fmt.Errorf("systemd's job for this unit: %w", err)
	}
	return job, nil
}

// queuedJob follows process → unit → job → its type
// (org.freedesktop.systemd1(5)). "/" as a job's path is none.
func queuedJob(ctx context.Context, pid int) (Job, error) {
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return JobUnknown, err
	}
	defer conn.Close()
	const systemd = "org.freedesktop.systemd1"
	get := func(path dbus.ObjectPath, kind, property string, value any) error {
		var v dbus.Variant
		err := conn.Object(systemd, path).
			CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, systemd+"."+kind, property).Store(&v)
		if err != nil {
			return err
		}
		return v.Store(value)
	}
	var unit dbus.ObjectPath
	err = conn.Object(systemd, "/org/freedesktop/systemd1").
		CallWithContext(ctx, systemd+".Manager.GetUnitByPID", 0, uint32(pid)).Store(&unit)
	if err != nil {
		return JobUnknown, err
	}
	var job struct {
		ID   uint32
		Path dbus.ObjectPath
	}
	if err := get(unit, "Unit", "Job", &job); err != nil || job.Path == "/" {
		return JobUnknown, err
	}
	var kind string
	if err := get(job.Path, "Job", "JobType", &kind); err != nil {
		return JobUnknown, err
	}
	switch Job(kind) {
	case JobStop, JobRestart:
		return Job(kind), nil
	case "try-restart": // job_type_table in systemd's src/core/job.c
		return JobRestart, nil
	}
	return JobUnknown, nil
}
