-- The curves of trainings, one row a run, pass over train and part: what the paper's Figures 5 to 7 show.
-- Train is the mean over the updates of the pass; validation is as measured at its end.
select
    m.run_id,
    r.arguments ->> 'experiment' as experiment,
    r.arguments ->> 'training_set' as training_set,
    r.arguments ->> 'recipe' as recipe,
    e.weights_kind,
    m.epoch,
    m.part,
    max(m.step) as step,
    avg(m.loss order by m.step) as loss,
    avg(m.accuracy order by m.step) as accuracy
from metrics m
join runs r on r.run_id = m.run_id
left join extractors e on e.extractor_id = r.extractor_id
group by all
