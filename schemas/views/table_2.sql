-- The paper's Table 2 for one's own data: test accuracy in per cent, one row a data set, protocol, experiment and
-- recipe, each with the mean and the sample standard deviation over its runs (seeds and folds; null of a single run).
-- What changes a result makes a row of its own: another training set, width, option of the recipe (settings) or
-- extractor. The view trainings says which runs count.
-- weights_kind says when features come from random weights.
with kinds as (
    select dataset, arg_max(arguments ->> 'kind', started_at) as kind
    from runs
    where command = 'ingest'
    group by dataset
),
paper as (
    from (
        values
            ('ferplus', 'deepest', 47.7), ('ferplus', 'sub_deep', 59.4), ('ferplus', 'fusion', 63.6),
            ('ckplus', 'deepest', 97.2), ('ckplus', 'sub_deep', 98.9), ('ckplus', 'fusion', 99.4),
            ('jaffe', 'deepest', 61.9), ('jaffe', 'sub_deep', 72.3), ('jaffe', 'fusion', 75.5)
    ) as v (kind, experiment, accuracy)
)
select
    t.dataset,
    t.protocol,
    t.experiment,
    t.recipe,
    t.width,
    t.settings,
    t.training_set,
    count(*) as runs,
    count(distinct t.seed) as seeds,
    count(distinct t.fold) as folds,
    avg(t.accuracy order by t.run_id) as accuracy,
    stddev_samp(t.accuracy order by t.run_id) as accuracy_sd,
    avg(t.macro_f1 order by t.run_id) as macro_f1,
    stddev_samp(t.macro_f1 order by t.run_id) as macro_f1_sd,
    avg(t.balanced_accuracy order by t.run_id) as balanced_accuracy,
    stddev_samp(t.balanced_accuracy order by t.run_id) as balanced_accuracy_sd,
    cast(any_value(p.accuracy) as double) as paper_accuracy,
    any_value(e.weights_kind) as weights_kind,
    t.extractor_id
from trainings t
left join kinds k on k.dataset = t.dataset
left join paper p on p.kind = k.kind and p.experiment = t.experiment
left join extractors e on e.extractor_id = t.extractor_id
where t.accuracy is not null
group by t.dataset, t.protocol, t.experiment, t.recipe, t.width, t.settings, t.training_set, t.extractor_id
order by t.dataset, t.protocol, t.training_set, t.experiment, t.recipe, t.settings, t.width, t.extractor_id
